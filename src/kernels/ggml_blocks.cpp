// Plain loops, which the compiler turns into vector code; this file must not be built with fused multiply-add: the
// bits are ggml's only with a rounding between product and sum.
#include "kernels/ggml_blocks.h"

#include <cmath>
#include <cstring>

#include "base/float16.h"

namespace fathom::kernels {
namespace {

bool put_scale(float scale, uint8_t* out) {
  const f16 half = to_f16(scale);
  std::memcpy(out, &half.bits, sizeof half.bits);
  return (half.bits & 0x7c00u) != 0x7c00u;
}

float scale_of(const uint8_t* block) {
  f16 half;
  std::memcpy(&half.bits, block, sizeof half.bits);
  return to_float(half);
}

// The largest size of a block; NaN where a value is.
float largest(const float* values) {
  float most[4] = {};
  float sum = 0;  // NaN or infinite values make it NaN
  for (int64_t i = 0; i < kGgmlBlock; i += 4)
    for (int64_t j = 0; j < 4; ++j)
      most[j] = std::fabs(values[i + j]) > most[j] ? std::fabs(values[i + j]) : most[j];
  for (int64_t i = 0; i < kGgmlBlock; ++i) sum += values[i] * 0.0f;
  const float a = most[0] > most[1] ? most[0] : most[1], b = most[2] > most[3] ? most[2] : most[3];
  return (a > b ? a : b) + sum;
}

// 1 / scale; 0 where that is no number: such a scale is 0 in f16, so that the values are 0 whatever the codes.
float inverse_of(float scale) {
  const float inverse = 1.0f / scale;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

}  // namespace

bool quantize_q8_0(const float* values, int64_t count, uint8_t* out) {
  for (int64_t block = 0; block < count; block += kGgmlBlock, values += kGgmlBlock, out += kQ8_0Bytes) {
    const float scale = largest(values) / 127.0f;
    if (!put_scale(scale, out)) return false;
    const float inverse = inverse_of(scale);
    for (int64_t i = 0; i < kGgmlBlock; ++i) {
      // roundf, which has no vector form: what truncation leaves is exact, and a half or more rounds away from zero.
      const float x = values[i] * inverse;
      const auto whole = static_cast<int32_t>(x);
      const float rest = x - static_cast<float>(whole);
      out[2 + i] = static_cast<uint8_t>(whole + (rest >= 0.5f ? 1 : 0) - (rest <= -0.5f ? 1 : 0));
    }
  }
  return true;
}

bool quantize_q4_0(const float* values, int64_t count, uint8_t* out) {
  constexpr int64_t kHalf = kGgmlBlock / 2;
  for (int64_t block = 0; block < count; block += kGgmlBlock, values += kGgmlBlock, out += kQ4_0Bytes) {
    const float size = largest(values);
    float extreme = 0;  // the first value of that size
    for (int64_t i = kGgmlBlock - 1; i >= 0; --i)
      extreme = std::fabs(values[i]) == size ? values[i] : extreme;
    const float scale = std::isfinite(size) ? extreme / -8.0f : size;
    if (!put_scale(scale, out)) return false;
    const float inverse = inverse_of(scale);
    uint8_t codes[kGgmlBlock];
    for (int64_t i = 0; i < kGgmlBlock; ++i) {
      const auto code = static_cast<int32_t>(values[i] * inverse + 8.5f);
      codes[i] = static_cast<uint8_t>(code < 15 ? code : 15);
    }
    for (int64_t i = 0; i < kHalf; ++i) out[2 + i] = static_cast<uint8_t>(codes[i] | codes[i + kHalf] << 4);
  }
  return true;
}

void dequantize_q8_0(const uint8_t* blocks, int64_t count, float* out) {
  for (int64_t block = 0; block < count; block += kGgmlBlock, blocks += kQ8_0Bytes, out += kGgmlBlock) {
    const float scale = scale_of(blocks);
    for (int64_t i = 0; i < kGgmlBlock; ++i)
      out[i] = scale * static_cast<float>(static_cast<int8_t>(blocks[2 + i]));
  }
}

void dequantize_q4_0(const uint8_t* blocks, int64_t count, float* out) {
  constexpr int64_t kHalf = kGgmlBlock / 2;
  for (int64_t block = 0; block < count; block += kGgmlBlock, blocks += kQ4_0Bytes, out += kGgmlBlock) {
    const float scale = scale_of(blocks);
    for (int64_t i = 0; i < kHalf; ++i) {
      out[i] = scale * static_cast<float>((blocks[2 + i] & 15) - 8);
      out[i + kHalf] = scale * static_cast<float>((blocks[2 + i] >> 4) - 8);
    }
  }
}

}  // namespace fathom::kernels

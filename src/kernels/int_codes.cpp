#include "kernels/int_codes.h"

#include "kernels/dispatch.h"

namespace fathom::kernels {

void quantize_int8(const float* values, float scale, int64_t count, int8_t* codes) {
  FATHOM_PICK(DType::f32, quantize_int_range)(values, scale, -kHighestInt8, kHighestInt8, count, codes);
}

void quantize_int4(const float* values, float scale, int64_t count, int8_t* codes) {
  FATHOM_PICK(DType::f32, quantize_int_range)(values, scale, kLowestInt4, kHighestInt4, count, codes);
}

void dequantize_int(const int8_t* codes, float scale, int64_t count, float* out) {
  using Body = void(const int8_t*, float, int64_t, float*);
  pick<Body>(DType::f32, &reference::dequantize_int_range, &avx2::dequantize_int_range,
             &avx512::dequantize_int_range)(codes, scale, count, out);
}

void dequantize_int(const int8_t* codes, float scale, int64_t count, bf16* out) {
  using Body = void(const int8_t*, float, int64_t, bf16*);
  pick<Body>(DType::bf16, &reference::dequantize_int_range, &avx2::dequantize_int_range,
             &avx512::dequantize_int_range)(codes, scale, count, out);
}

CodeError code_error(const float* values, const float* decoded, int64_t count) {
  return FATHOM_PICK(DType::f32, code_error_range)(values, decoded, count);
}

void pack_int4(const int8_t* codes, int64_t count, uint8_t* packed) {
  const int64_t pairs = count / 2;
  for (int64_t i = 0; i < pairs; ++i)
    packed[i] = static_cast<uint8_t>((codes[2 * i] + 8) | (codes[2 * i + 1] + 8) << 4);
  if (count % 2 != 0) packed[pairs] = static_cast<uint8_t>(codes[count - 1] + 8);
}

void unpack_int4(const uint8_t* packed, int64_t begin, int64_t count, int8_t* codes) {
  const auto code = [&](int64_t i) { return static_cast<int8_t>((packed[i / 2] >> 4 * (i % 2) & 15) - 8); };
  int64_t i = 0;
  for (; i < count && (begin + i) % 2 != 0; ++i) codes[i] = code(begin + i);
  for (const uint8_t* pair = packed + (begin + i) / 2; i + 1 < count; i += 2, ++pair) {
    codes[i] = static_cast<int8_t>((*pair & 15) - 8);
    codes[i + 1] = static_cast<int8_t>((*pair >> 4) - 8);
  }
  if (i < count) codes[i] = code(begin + i);
}

}  // namespace fathom::kernels

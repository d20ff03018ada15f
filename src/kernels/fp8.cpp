#include "kernels/fp8.h"

#include <bit>
#include <cmath>

#include "kernels/dispatch.h"

namespace fathom::kernels {

float e4m3_value(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  float magnitude;
  if (exponent == 15 && mantissa == 7) {
    magnitude = std::bit_cast<float>(0x7fc00000u);
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -9);
  } else {
    magnitude = std::ldexp(1.0f + static_cast<float>(mantissa) / 8.0f, exponent - 7);
  }
  return code & 0x80 ? -magnitude : magnitude;
}

uint8_t to_e4m3(float value) {
  const auto sign = static_cast<uint8_t>(std::signbit(value) ? 0x80 : 0);
  if (std::isnan(value)) return sign | 0x7f;
  const float magnitude = std::fmin(std::fabs(value), kLargestE4m3);
  // Below 2^-6 values are multiples of 2^-9; nearbyint rounds to nearest even.
  if (magnitude < 0x1p-6f)
    return static_cast<uint8_t>(sign | static_cast<int>(std::nearbyint(magnitude * 512)));
  int exponent;
  const float fraction = std::frexp(magnitude, &exponent);  // in [1/2, 1)
  const int eighths =
      static_cast<int>(std::nearbyint(fraction * 16));  // 8 .. 16; 16 carries into the exponent
  return static_cast<uint8_t>(sign | ((exponent + 6) * 8 + eighths - 8));
}

void dequantize_fp8(const uint8_t* codes, float scale, int64_t count, float* out) {
  using Body = void(const uint8_t*, float, int64_t, float*);
  pick<Body>(DType::f32, &reference::dequantize_fp8_range, &avx2::dequantize_fp8_range,
             &avx512::dequantize_fp8_range)(codes, scale, count, out);
}

void dequantize_fp8(const uint8_t* codes, float scale, int64_t count, bf16* out) {
  using Body = void(const uint8_t*, float, int64_t, bf16*);
  pick<Body>(DType::bf16, &reference::dequantize_fp8_range, &avx2::dequantize_fp8_range,
             &avx512::dequantize_fp8_range)(codes, scale, count, out);
}

float absolute_max(const float* values, int64_t count) {
  return FATHOM_PICK(DType::f32, absolute_max_range)(values, count);
}

void quantize_fp8(const float* values, float scale, int64_t count, uint8_t* codes) {
  FATHOM_PICK(DType::f32, quantize_fp8_range)(values, scale, count, codes);
}

}  // namespace fathom::kernels

#include "kernels/cpu/body/vec.h"
#include "kernels/dispatch.h"
#include "kernels/fp8.h"

namespace fathom::kernels::FATHOM_SET {
namespace {

// A code becomes the half of the same bits, whose exponent is 8 too small; the hardware's conversion takes its
// subnormals, too. n <= width codes; the lanes beyond are 0.
FATHOM_INLINE Vec load_codes(const uint8_t* codes, int64_t n) {
  uint8_t tail[16] = {};
  if (n < kWidth) {
    std::memcpy(tail, codes, static_cast<size_t>(n));
    codes = tail;
  }
#if defined(__AVX512F__)
  const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(codes)));
  const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x80)), 8);
  const __m256i magnitude = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x7f)), 7);
  const Vec value = _mm512_cvtph_ps(_mm256_or_si256(sign, magnitude)) * splat(256.0f);
#else
  const __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i_u*>(codes)));
  const __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x80)), 8);
  const __m128i magnitude = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x7f)), 7);
  const Vec value = _mm256_cvtph_ps(_mm_or_si128(sign, magnitude)) * splat(256.0f);
#endif
  // What would be 480 stands for NaN.
  const IVec sign_bit = bits(value) & splat_int(INT32_MIN);
  const Mask none = equal(from_bits(bits(value) & splat_int(INT32_MAX)), splat(480.0f));
  return select(none, from_bits(sign_bit | splat_int(0x7fc00000)), value);
}

FATHOM_INLINE void store_codes(uint8_t* codes, IVec a, int64_t n) {
  uint8_t bytes[16];
#if defined(__AVX512F__)
  const __m128i packed = _mm512_cvtepi32_epi8(a);
#else
  const __m128i packed = _mm_packus_epi16(low_halves(a), _mm_setzero_si128());
#endif
  _mm_storeu_si128(reinterpret_cast<__m128i_u*>(bytes), packed);
  std::memcpy(codes, bytes, static_cast<size_t>(n));
}

FATHOM_INLINE IVec e4m3_of(Vec x) {
  const IVec sign = shift_right(bits(x) & splat_int(INT32_MIN), 24);
  const Vec magnitude = from_bits(bits(x) & splat_int(INT32_MAX));
  const Vec bounded = min(magnitude, splat(kLargestE4m3));
  const IVec u = bits(bounded), lsb = shift_right(u, 20) & splat_int(1);
  const IVec rounded = shift_right(add(add(u, splat_int(0x7ffff)), lsb), 20);
  const IVec normal = subtract(rounded, splat_int(120 << 3));
  // 2^14 has steps of 2^-9, those of the subnormal codes: the addition rounds to them.
  const IVec subnormal = subtract(bits(bounded + splat(16384.0f)), bits(splat(16384.0f)));
  const Mask is_normal = greater(u, splat_int((121 << 23) - 1));  // from 2^-6 on
  const Vec code = select(is_normal, from_bits(normal), from_bits(subnormal));
  return bits(select(is_nan(magnitude), from_bits(splat_int(0x7f)), code)) | sign;
}

}  // namespace

void dequantize_fp8_range(const uint8_t* codes, float scale, int64_t count, float* out) {
  const Vec factor = splat(scale);
  FATHOM_FOR_VECTORS(i, 0, count, store_n(out + i, load_codes(codes + i, n) * factor, n););
}

void dequantize_fp8_range(const uint8_t* codes, float scale, int64_t count, bf16* out) {
  const Vec factor = splat(scale);
  FATHOM_FOR_VECTORS(i, 0, count, store_n(out + i, load_codes(codes + i, n) * factor, n););
}

// In the order of bits, where NaN is the largest.
float absolute_max_range(const float* values, int64_t count) {
  IVec largest = splat_int(0);
  FATHOM_FOR_VECTORS(i, 0, count,
                     largest = greater_of(largest, bits(load_n(values + i, n)) & splat_int(INT32_MAX)););
  uint32_t lanes[kWidth], result = 0;
  std::memcpy(lanes, &largest, sizeof lanes);
  for (const uint32_t lane : lanes) result = lane > result ? lane : result;
  return float_of(result);
}

void quantize_fp8_range(const float* values, float scale, int64_t count, uint8_t* codes) {
  const Vec divisor = splat(scale);
  FATHOM_FOR_VECTORS(i, 0, count, store_codes(codes + i, e4m3_of(load_n(values + i, n) / divisor), n););
}

}  // namespace fathom::kernels::FATHOM_SET

#include "kernels/cpu/body/vec.h"
#include "kernels/dispatch.h"
#include "kernels/int_codes.h"

namespace fathom::kernels::FATHOM_SET {
namespace {

// n <= width codes; the lanes beyond are 0.
FATHOM_INLINE Vec load_codes(const int8_t* codes, int64_t n) {
  int8_t tail[16] = {};
  if (n < kWidth) {
    std::memcpy(tail, codes, static_cast<size_t>(n));
    codes = tail;
  }
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(codes))));
#else
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i_u*>(codes))));
#endif
}

FATHOM_INLINE void store_codes(int8_t* codes, Vec integers, int64_t n) {
  int8_t bytes[16];
#if defined(__AVX512F__)
  const __m128i packed = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(integers));
#else
  const __m256i wide = _mm256_cvtps_epi32(integers);
  const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  const __m128i packed = _mm_packs_epi16(halves, halves);
#endif
  _mm_storeu_si128(reinterpret_cast<__m128i_u*>(bytes), packed);
  std::memcpy(codes, bytes, static_cast<size_t>(n));
}

}  // namespace

void quantize_int_range(const float* values, float scale, int lowest, int highest, int64_t count,
                        int8_t* codes) {
  const Vec divisor = splat(scale), low = splat(static_cast<float>(lowest)),
            high = splat(static_cast<float>(highest));
  FATHOM_FOR_VECTORS(
      i, 0, count,
      store_codes(codes + i, max(low, min(high, round_to_integer(load_n(values + i, n) / divisor))), n););
}

void dequantize_int_range(const int8_t* codes, float scale, int64_t count, float* out) {
  const Vec factor = splat(scale);
  FATHOM_FOR_VECTORS(i, 0, count, store_n(out + i, load_codes(codes + i, n) * factor, n););
}

void dequantize_int_range(const int8_t* codes, float scale, int64_t count, bf16* out) {
  const Vec factor = splat(scale);
  FATHOM_FOR_VECTORS(i, 0, count, store_n(out + i, load_codes(codes + i, n) * factor, n););
}

// The difference of value and decoded is exact in float where they are within a factor of two, and rounded else.
CodeError code_error_range(const float* values, const float* decoded, int64_t count) {
  DoubleVec errors = zero_double(), squares = zero_double();
  Vec largest = zero();
  FATHOM_FOR_VECTORS(i, 0, count, const Vec value = load_n(values + i, n);
                     const Vec error = load_n(decoded + i, n) - value; errors = add_squares(errors, error);
                     squares = add_squares(squares, value);
                     largest = max(largest, from_bits(bits(error) & splat_int(INT32_MAX))););
  return {sum_of(errors), sum_of(squares), max_of(largest)};
}

}  // namespace fathom::kernels::FATHOM_SET

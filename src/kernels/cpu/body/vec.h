// Vectors of fp32 in the width of the set being compiled, for the bodies in this folder. Include inside
// nothing; the including file defines FATHOM_SET (avx2, avx512 or amx). All names have internal linkage.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "base/bfloat16.h"

namespace fathom::kernels::FATHOM_SET {
namespace {

using U16 = uint16_t __attribute__((may_alias));
using U32 = uint32_t __attribute__((may_alias));
using F32 = float __attribute__((may_alias));

#define FATHOM_INLINE __attribute__((always_inline, unused)) inline

FATHOM_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
FATHOM_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
FATHOM_INLINE float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
FATHOM_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

#if defined(__AVX512F__)

constexpr int64_t kWidth = 16;
using Vec = __m512;
using IVec = __m512i;
using Mask = __mmask16;

FATHOM_INLINE Vec splat(float x) { return _mm512_set1_ps(x); }
FATHOM_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
FATHOM_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a * b
// The second operand where either is NaN.
FATHOM_INLINE Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
FATHOM_INLINE Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
FATHOM_INLINE Vec sqrt(Vec a) { return _mm512_sqrt_ps(a); }
FATHOM_INLINE Vec round_to_integer(Vec a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
FATHOM_INLINE Vec times_power_of_two(Vec a, Vec n) { return _mm512_scalef_ps(a, n); }
FATHOM_INLINE float sum_of(Vec a) { return _mm512_reduce_add_ps(a); }
FATHOM_INLINE float max_of(Vec a) { return _mm512_reduce_max_ps(a); }

FATHOM_INLINE Vec load(const F32* p) { return _mm512_loadu_ps(p); }
FATHOM_INLINE void store(F32* p, Vec a) { _mm512_storeu_ps(p, a); }
FATHOM_INLINE Vec widen(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
// To nearest even as to_bf16 does: denormals kept (vcvtneps2bf16 would flush them), NaN stays NaN.
FATHOM_INLINE __m256i narrow(Vec a) {
  const __m512i u = _mm512_castps_si512(a);
  const __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), lsb);
  const __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
  const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(nan, rounded, quiet), 16));
}
FATHOM_INLINE Vec load(const bf16* p) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p)));
}
FATHOM_INLINE void store(bf16* p, Vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(p), narrow(a)); }

FATHOM_INLINE Mask first(int64_t n) { return static_cast<Mask>((1u << n) - 1); }
FATHOM_INLINE Vec load_first(const F32* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
FATHOM_INLINE void store_first(F32* p, Vec a, int64_t n) { _mm512_mask_storeu_ps(p, first(n), a); }
FATHOM_INLINE Vec load_first(const bf16* p, int64_t n) {
  return widen(_mm256_maskz_loadu_epi16(first(n), p));
}
FATHOM_INLINE void store_first(bf16* p, Vec a, int64_t n) {
  _mm256_mask_storeu_epi16(p, first(n), narrow(a));
}

FATHOM_INLINE IVec load_int(const int32_t* p) { return _mm512_loadu_si512(p); }
FATHOM_INLINE IVec splat_int(int32_t x) { return _mm512_set1_epi32(x); }
FATHOM_INLINE Mask greater(IVec a, IVec b) { return _mm512_cmpgt_epi32_mask(a, b); }
FATHOM_INLINE Mask either(Mask a, Mask b) { return a | b; }
FATHOM_INLINE Mask equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
FATHOM_INLINE bool all(Mask m) { return m == 0xffff; }
FATHOM_INLINE Vec select(Mask m, Vec if_set, Vec otherwise) {
  return _mm512_mask_blend_ps(m, otherwise, if_set);
}

FATHOM_INLINE IVec bits(Vec a) { return _mm512_castps_si512(a); }
FATHOM_INLINE Vec from_bits(IVec a) { return _mm512_castsi512_ps(a); }
FATHOM_INLINE IVec add(IVec a, IVec b) { return _mm512_add_epi32(a, b); }
FATHOM_INLINE IVec high_half_signed(IVec a) { return _mm512_srai_epi32(a, 16); }
FATHOM_INLINE IVec high_half(IVec a) { return _mm512_srli_epi32(a, 16); }
// The low 16 bits of the first n.
FATHOM_INLINE void store_low_halves(U16* p, IVec a, int64_t n) {
  _mm256_mask_storeu_epi16(p, n == kWidth ? Mask(0xffff) : first(n), _mm512_cvtepi32_epi16(a));
}
// The sum of squares of the lanes of a, in double, onto eight sums.
using DoubleVec = __m512d;
FATHOM_INLINE DoubleVec add_squares(DoubleVec sums, Vec a) {
  const __m512d lo = _mm512_cvtps_pd(_mm512_castps512_ps256(a)),
                hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
  return _mm512_fmadd_pd(hi, hi, _mm512_fmadd_pd(lo, lo, sums));
}
FATHOM_INLINE DoubleVec zero_double() { return _mm512_setzero_pd(); }
FATHOM_INLINE double sum_of(DoubleVec a) { return _mm512_reduce_add_pd(a); }
// (a0, a1, a2, a3 ...) -> (a1, a0, a3, a2 ...)
FATHOM_INLINE Vec swap_pairs(Vec a) { return _mm512_permute_ps(a, 0xb1); }
// a b - c in even lanes, a b + c in odd lanes
FATHOM_INLINE Vec multiply_subtract_add(Vec a, Vec b, Vec c) { return _mm512_fmaddsub_ps(a, b, c); }
// n / 2 values, each twice
FATHOM_INLINE Vec load_doubled(const float* p, int64_t n) {
  const __m512i order = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  return _mm512_permutexvar_ps(order, _mm512_maskz_loadu_ps(first(n / 2), p));
}

// The 16 x 16 transpose of 32-bit units.
FATHOM_INLINE void transpose_square(const F32* from, int64_t from_stride, F32* to, int64_t to_stride) {
  __m512 r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(from + i * from_stride);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#define FATHOM_PAIR(op, a, b) _mm512_castpd_ps(op(_mm512_castps_pd(a), _mm512_castps_pd(b)))
#pragma GCC unroll 4
  for (int g = 0; g < 16; g += 4) {  // r[g + c], 128-bit lane l: column 4 l + c of rows g .. g + 3
    r[g] = FATHOM_PAIR(_mm512_unpacklo_pd, t[g], t[g + 2]);
    r[g + 1] = FATHOM_PAIR(_mm512_unpackhi_pd, t[g], t[g + 2]);
    r[g + 2] = FATHOM_PAIR(_mm512_unpacklo_pd, t[g + 1], t[g + 3]);
    r[g + 3] = FATHOM_PAIR(_mm512_unpackhi_pd, t[g + 1], t[g + 3]);
  }
#undef FATHOM_PAIR
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 even_lo = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88),
                 odd_lo = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd);
    const __m512 even_hi = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
    const __m512 odd_hi = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
    _mm512_storeu_ps(to + c * to_stride, _mm512_shuffle_f32x4(even_lo, even_hi, 0x88));
    _mm512_storeu_ps(to + (4 + c) * to_stride, _mm512_shuffle_f32x4(odd_lo, odd_hi, 0x88));
    _mm512_storeu_ps(to + (8 + c) * to_stride, _mm512_shuffle_f32x4(even_lo, even_hi, 0xdd));
    _mm512_storeu_ps(to + (12 + c) * to_stride, _mm512_shuffle_f32x4(odd_lo, odd_hi, 0xdd));
  }
}

#else  // AVX2

constexpr int64_t kWidth = 8;
using Vec = __m256;
using IVec = __m256i;
using Mask = __m256;

FATHOM_INLINE Vec splat(float x) { return _mm256_set1_ps(x); }
FATHOM_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
FATHOM_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a, b, c); }
FATHOM_INLINE Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
FATHOM_INLINE Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
FATHOM_INLINE Vec sqrt(Vec a) { return _mm256_sqrt_ps(a); }
FATHOM_INLINE Vec round_to_integer(Vec a) {
  return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// n integral in [-252, 254]: in two factors, so that results may be denormal or overflow to infinity.
FATHOM_INLINE Vec times_power_of_two(Vec a, Vec n) {
  const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1),
                rest = _mm256_sub_epi32(whole, half);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256 x = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const __m256 y = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
  return _mm256_mul_ps(_mm256_mul_ps(a, x), y);
}
FATHOM_INLINE float sum_of(Vec a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
FATHOM_INLINE float max_of(Vec a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

FATHOM_INLINE Vec load(const F32* p) { return _mm256_loadu_ps(p); }
FATHOM_INLINE void store(F32* p, Vec a) { _mm256_storeu_ps(p, a); }
FATHOM_INLINE Vec widen(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
FATHOM_INLINE __m128i low_halves(__m256i u) {  // the low 16 bits of each of 8 numbers whose high bits are 0
  const __m256i packed = _mm256_packus_epi32(u, u);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}
FATHOM_INLINE __m128i narrow(Vec a) {
  const __m256i u = _mm256_castps_si256(a);
  const __m256i lsb = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), lsb);
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return low_halves(_mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16));
}
FATHOM_INLINE Vec load(const bf16* p) {
  return widen(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(p)));
}
FATHOM_INLINE void store(bf16* p, Vec a) { _mm_storeu_si128(reinterpret_cast<__m128i_u*>(p), narrow(a)); }

FATHOM_INLINE __m256i first(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FATHOM_INLINE Vec load_first(const F32* p, int64_t n) { return _mm256_maskload_ps(p, first(n)); }
FATHOM_INLINE void store_first(F32* p, Vec a, int64_t n) { _mm256_maskstore_ps(p, first(n), a); }
FATHOM_INLINE Vec load_first(const bf16* p, int64_t n) {
  alignas(16) bf16 buffer[8] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return load(buffer);
}
FATHOM_INLINE void store_first(bf16* p, Vec a, int64_t n) {
  alignas(16) bf16 buffer[8];
  store(buffer, a);
  for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}

FATHOM_INLINE IVec load_int(const int32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p));
}
FATHOM_INLINE IVec splat_int(int32_t x) { return _mm256_set1_epi32(x); }
FATHOM_INLINE Mask greater(IVec a, IVec b) { return _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b)); }
FATHOM_INLINE Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
FATHOM_INLINE Mask equal(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
FATHOM_INLINE bool all(Mask m) { return _mm256_movemask_ps(m) == 0xff; }
FATHOM_INLINE Vec select(Mask m, Vec if_set, Vec otherwise) { return _mm256_blendv_ps(otherwise, if_set, m); }

FATHOM_INLINE IVec bits(Vec a) { return _mm256_castps_si256(a); }
FATHOM_INLINE Vec from_bits(IVec a) { return _mm256_castsi256_ps(a); }
FATHOM_INLINE IVec add(IVec a, IVec b) { return _mm256_add_epi32(a, b); }
FATHOM_INLINE IVec high_half_signed(IVec a) { return _mm256_srai_epi32(a, 16); }
FATHOM_INLINE IVec high_half(IVec a) { return _mm256_srli_epi32(a, 16); }
FATHOM_INLINE void store_low_halves(U16* p, IVec a, int64_t n) {
  const __m128i halves = low_halves(_mm256_and_si256(a, _mm256_set1_epi32(0xffff)));
  if (n == kWidth) {
    _mm_storeu_si128(reinterpret_cast<__m128i_u*>(p), halves);
    return;
  }
  alignas(16) U16 buffer[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(buffer), halves);
  for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}
using DoubleVec = __m256d;
FATHOM_INLINE DoubleVec add_squares(DoubleVec sums, Vec a) {
  const __m256d lo = _mm256_cvtps_pd(_mm256_castps256_ps128(a)),
                hi = _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
  return _mm256_fmadd_pd(hi, hi, _mm256_fmadd_pd(lo, lo, sums));
}
FATHOM_INLINE DoubleVec zero_double() { return _mm256_setzero_pd(); }
FATHOM_INLINE double sum_of(DoubleVec a) {
  const __m128d s = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
  return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}
FATHOM_INLINE Vec swap_pairs(Vec a) { return _mm256_permute_ps(a, 0xb1); }
FATHOM_INLINE Vec multiply_subtract_add(Vec a, Vec b, Vec c) { return _mm256_fmaddsub_ps(a, b, c); }
FATHOM_INLINE Vec load_doubled(const float* p, int64_t n) {
  const __m256i order = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
  return _mm256_permutevar8x32_ps(load_first(p, n / 2), order);
}

// The 8 x 8 transpose of 32-bit units.
FATHOM_INLINE void transpose_square(const F32* from, int64_t from_stride, F32* to, int64_t to_stride) {
  __m256 r[8], t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(from + i * from_stride);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int g = 0; g < 8; g += 4) {
    r[g] = _mm256_shuffle_ps(t[g], t[g + 2], 0x44);
    r[g + 1] = _mm256_shuffle_ps(t[g], t[g + 2], 0xee);
    r[g + 2] = _mm256_shuffle_ps(t[g + 1], t[g + 3], 0x44);
    r[g + 3] = _mm256_shuffle_ps(t[g + 1], t[g + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    _mm256_storeu_ps(to + c * to_stride, _mm256_permute2f128_ps(r[c], r[4 + c], 0x20));
    _mm256_storeu_ps(to + (4 + c) * to_stride, _mm256_permute2f128_ps(r[c], r[4 + c], 0x31));
  }
}

#endif

FATHOM_INLINE Vec zero() { return splat(0.0f); }

// to[c][r] = from[r][c] for multiples of the width.
FATHOM_INLINE void transpose(const F32* from, int64_t from_stride, int64_t rows, int64_t columns, F32* to,
                             int64_t to_stride) {
  for (int64_t r = 0; r < rows; r += kWidth)
    for (int64_t c = 0; c < columns; c += kWidth)
      transpose_square(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
}

// e^x, within 1.5 ulp over the whole range (tested against the double function): 0 and infinity past the
// ends, denormal results kept, NaN stays NaN. x = n ln 2 + f, e^f by a minimax polynomial of relative error
// 2e-9 on |f| <= ln 2 / 2.
FATHOM_INLINE Vec exp(Vec x) {
  x = max(splat(-105.0f), min(splat(89.0f), x));
  const Vec n = round_to_integer(x * splat(1.44269504f));
  Vec f = fnma(n, splat(0.693359375f), x);  // ln 2 in two parts, the first exact in 9 bits
  f = fnma(n, splat(-2.12194440e-4f), f);
  Vec p = fma(splat(1.384365362e-03f), f, splat(8.374155454e-03f));
  p = fma(p, f, splat(4.166800204e-02f));
  p = fma(p, f, splat(1.666643126e-01f));
  p = fma(p, f, splat(4.999999421e-01f));
  p = fma(p, f * f, f);
  return times_power_of_two(p + splat(1.0f), n);
}

FATHOM_INLINE Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(zero() - x)); }

// The statements for i = begin, begin + width ... with n values each: n is the constant width in all but the
// last, so that load_n and store_n cost no mask there.
#define FATHOM_FOR_VECTORS(i, begin, end, ...) \
  do {                                         \
    int64_t i = begin;                         \
    for (; i + kWidth <= end; i += kWidth) {   \
      constexpr int64_t n = kWidth;            \
      __VA_ARGS__                              \
    }                                          \
    if (i < end) {                             \
      const int64_t n = end - i;               \
      __VA_ARGS__                              \
    }                                          \
  } while (false)

template <typename T>
FATHOM_INLINE Vec load_n(const T* p, int64_t n) {
  return n == kWidth ? load(p) : load_first(p, n);
}
template <typename T>
FATHOM_INLINE void store_n(T* p, Vec a, int64_t n) {
  if (n == kWidth) {
    store(p, a);
  } else {
    store_first(p, a, n);
  }
}

// As a value of T would have it.
FATHOM_INLINE Vec rounded_as(const float*, Vec a) { return a; }
FATHOM_INLINE Vec rounded_as(const bf16*, Vec a) { return widen(narrow(a)); }

}  // namespace
}  // namespace fathom::kernels::FATHOM_SET

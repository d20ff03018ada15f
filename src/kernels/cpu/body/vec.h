// Vectors of fp32 in the width of the set being compiled, for the bodies in this folder. Include inside
// nothing; the including file defines FATHOM_SET (avx2, avx512 or amx). All names have internal linkage. First
// what the two widths do in their own ways, then what is built on that.
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
FATHOM_INLINE int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
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

#define FATHOM_INTRINSIC(name) _mm512_##name
constexpr int64_t kWidth = 16;
using Vec = __m512;
using IVec = __m512i;
using DoubleVec = __m512d;
using Halves = __m256i;  // a 16-bit value for each lane
using Mask = __mmask16;

FATHOM_INLINE Vec round_to_integer(Vec a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
FATHOM_INLINE Vec times_power_of_two(Vec a, Vec n) { return _mm512_scalef_ps(a, n); }
FATHOM_INLINE float sum_of(Vec a) { return _mm512_reduce_add_ps(a); }
FATHOM_INLINE float max_of(Vec a) { return _mm512_reduce_max_ps(a); }
FATHOM_INLINE double sum_of(DoubleVec a) { return _mm512_reduce_add_pd(a); }
FATHOM_INLINE DoubleVec low_as_double(Vec a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a)); }
FATHOM_INLINE DoubleVec high_as_double(Vec a) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)); }

FATHOM_INLINE Mask first(int64_t n) { return static_cast<Mask>((1u << n) - 1); }
FATHOM_INLINE Vec load_first(const F32* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
FATHOM_INLINE void store_first(F32* p, Vec a, int64_t n) { _mm512_mask_storeu_ps(p, first(n), a); }
FATHOM_INLINE Halves load_halves(const U16* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p));
}
FATHOM_INLINE void store_halves(U16* p, Halves a) { _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(p), a); }
FATHOM_INLINE Halves load_first_halves(const U16* p, int64_t n) {
  return _mm256_maskz_loadu_epi16(first(n), p);
}
FATHOM_INLINE void store_first_halves(U16* p, Halves a, int64_t n) {
  _mm256_mask_storeu_epi16(p, first(n), a);
}
FATHOM_INLINE Halves low_halves(IVec a) { return _mm512_cvtepi32_epi16(a); }

FATHOM_INLINE Mask greater(IVec a, IVec b) { return _mm512_cmpgt_epi32_mask(a, b); }
FATHOM_INLINE Mask either(Mask a, Mask b) { return a | b; }
FATHOM_INLINE Mask equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
FATHOM_INLINE Mask is_nan(Vec a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
FATHOM_INLINE bool all(Mask m) { return m == 0xffff; }
FATHOM_INLINE Vec select(Mask m, Vec if_set, Vec otherwise) {
  return _mm512_mask_blend_ps(m, otherwise, if_set);
}
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

#define FATHOM_INTRINSIC(name) _mm256_##name
constexpr int64_t kWidth = 8;
using Vec = __m256;
using IVec = __m256i;
using DoubleVec = __m256d;
using Halves = __m128i;
using Mask = __m256;

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
FATHOM_INLINE double sum_of(DoubleVec a) {
  const __m128d s = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
  return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}
FATHOM_INLINE DoubleVec low_as_double(Vec a) { return _mm256_cvtps_pd(_mm256_castps256_ps128(a)); }
FATHOM_INLINE DoubleVec high_as_double(Vec a) { return _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)); }

FATHOM_INLINE __m256i first(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FATHOM_INLINE Vec load_first(const F32* p, int64_t n) { return _mm256_maskload_ps(p, first(n)); }
FATHOM_INLINE void store_first(F32* p, Vec a, int64_t n) { _mm256_maskstore_ps(p, first(n), a); }
FATHOM_INLINE Halves load_halves(const U16* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(p));
}
FATHOM_INLINE void store_halves(U16* p, Halves a) { _mm_storeu_si128(reinterpret_cast<__m128i_u*>(p), a); }
FATHOM_INLINE Halves load_first_halves(const U16* p, int64_t n) {
  alignas(16) U16 buffer[8] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return load_halves(buffer);
}
FATHOM_INLINE void store_first_halves(U16* p, Halves a, int64_t n) {
  alignas(16) U16 buffer[8];
  store_halves(buffer, a);
  for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}
FATHOM_INLINE Halves low_halves(IVec a) {  // high halves must be 0: the packing saturates
  const __m256i packed = _mm256_packus_epi32(a, a);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}

FATHOM_INLINE Mask greater(IVec a, IVec b) { return _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b)); }
FATHOM_INLINE Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
FATHOM_INLINE Mask equal(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
FATHOM_INLINE Mask is_nan(Vec a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
FATHOM_INLINE bool all(Mask m) { return _mm256_movemask_ps(m) == 0xff; }
FATHOM_INLINE Vec select(Mask m, Vec if_set, Vec otherwise) { return _mm256_blendv_ps(otherwise, if_set, m); }
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

FATHOM_INLINE Vec splat(float x) { return FATHOM_INTRINSIC(set1_ps)(x); }
FATHOM_INLINE Vec zero() { return splat(0.0f); }
FATHOM_INLINE Vec fma(Vec a, Vec b, Vec c) { return FATHOM_INTRINSIC(fmadd_ps)(a, b, c); }
FATHOM_INLINE Vec fnma(Vec a, Vec b, Vec c) { return FATHOM_INTRINSIC(fnmadd_ps)(a, b, c); }  // c - a * b
// The second operand where either is NaN.
FATHOM_INLINE Vec max(Vec a, Vec b) { return FATHOM_INTRINSIC(max_ps)(a, b); }
FATHOM_INLINE Vec min(Vec a, Vec b) { return FATHOM_INTRINSIC(min_ps)(a, b); }
FATHOM_INLINE Vec sqrt(Vec a) { return FATHOM_INTRINSIC(sqrt_ps)(a); }
// (a0, a1, a2, a3 ...) -> (a1, a0, a3, a2 ...)
FATHOM_INLINE Vec swap_pairs(Vec a) { return FATHOM_INTRINSIC(permute_ps)(a, 0xb1); }
// a b - c in even lanes, a b + c in odd lanes
FATHOM_INLINE Vec multiply_subtract_add(Vec a, Vec b, Vec c) {
  return FATHOM_INTRINSIC(fmaddsub_ps)(a, b, c);
}
FATHOM_INLINE DoubleVec zero_double() { return FATHOM_INTRINSIC(set1_pd)(0.0); }
// The sum of squares of the lanes of a, in double, onto half as many sums.
FATHOM_INLINE DoubleVec add_squares(DoubleVec sums, Vec a) {
  const DoubleVec lo = low_as_double(a), hi = high_as_double(a);
  return FATHOM_INTRINSIC(fmadd_pd)(hi, hi, FATHOM_INTRINSIC(fmadd_pd)(lo, lo, sums));
}

FATHOM_INLINE IVec load_int(const int32_t* p) {
  IVec a;
  std::memcpy(&a, p, sizeof a);
  return a;
}
FATHOM_INLINE IVec splat_int(int32_t x) { return FATHOM_INTRINSIC(set1_epi32)(x); }
FATHOM_INLINE IVec bits(Vec a) { return reinterpret_cast<IVec>(a); }
FATHOM_INLINE Vec from_bits(IVec a) { return reinterpret_cast<Vec>(a); }
FATHOM_INLINE IVec add(IVec a, IVec b) { return FATHOM_INTRINSIC(add_epi32)(a, b); }
FATHOM_INLINE IVec subtract(IVec a, IVec b) { return FATHOM_INTRINSIC(sub_epi32)(a, b); }
FATHOM_INLINE IVec greater_of(IVec a, IVec b) { return FATHOM_INTRINSIC(max_epi32)(a, b); }
FATHOM_INLINE IVec shift_right(IVec a, int n) { return FATHOM_INTRINSIC(srli_epi32)(a, n); }
FATHOM_INLINE IVec high_half_signed(IVec a) { return FATHOM_INTRINSIC(srai_epi32)(a, 16); }
FATHOM_INLINE IVec high_half(IVec a) { return FATHOM_INTRINSIC(srli_epi32)(a, 16); }

FATHOM_INLINE Vec widen(Halves a) {
  return from_bits(FATHOM_INTRINSIC(slli_epi32)(FATHOM_INTRINSIC(cvtepu16_epi32)(a), 16));
}
// To nearest even as to_bf16 does: denormals kept (vcvtneps2bf16 would flush them), NaN stays NaN.
FATHOM_INLINE Halves narrow(Vec a) {
  const IVec u = bits(a), lsb = high_half(u) & splat_int(1);
  const IVec rounded = add(add(u, splat_int(0x7fff)), lsb), quiet = u | splat_int(0x400000);
  return low_halves(high_half(bits(select(is_nan(a), from_bits(quiet), from_bits(rounded)))));
}

FATHOM_INLINE Vec load(const F32* p) { return FATHOM_INTRINSIC(loadu_ps)(p); }
FATHOM_INLINE void store(F32* p, Vec a) { FATHOM_INTRINSIC(storeu_ps)(p, a); }
FATHOM_INLINE const U16* bits_of(const bf16* p) { return reinterpret_cast<const U16*>(p); }
FATHOM_INLINE U16* bits_of(bf16* p) { return reinterpret_cast<U16*>(p); }
FATHOM_INLINE Vec load(const bf16* p) { return widen(load_halves(bits_of(p))); }
FATHOM_INLINE void store(bf16* p, Vec a) { store_halves(bits_of(p), narrow(a)); }
FATHOM_INLINE Vec load_first(const bf16* p, int64_t n) { return widen(load_first_halves(bits_of(p), n)); }
FATHOM_INLINE void store_first(bf16* p, Vec a, int64_t n) { store_first_halves(bits_of(p), narrow(a), n); }
// The low 16 bits of the first n.
FATHOM_INLINE void store_low_halves(U16* p, IVec a, int64_t n) {
  const Halves low = low_halves(a & splat_int(0xffff));
  if (n == kWidth) {
    store_halves(p, low);
  } else {
    store_first_halves(p, low, n);
  }
}

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

#undef FATHOM_INTRINSIC

}  // namespace
}  // namespace fathom::kernels::FATHOM_SET

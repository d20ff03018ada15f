// The tiled attention of kernels/attention.h. Scores are computed transposed, [key][query]: the softmax over
// keys is then vertical (no horizontal step), its statistics are vectors over the 64 queries of a block, and
// P^T, dS^T are born in the layouts that the next products want. Everything is packed once per head into
// dense, zero-padded blocks of 64 tokens, since rows of one head lie kilobytes apart and would fight for the
// same cache sets.
#include "kernels/attention.h"
#include "kernels/cpu/body/block_product.h"
#include "kernels/dispatch.h"

namespace fathom::kernels::FATHOM_SET {
namespace {

constexpr int64_t kBlock = kAttentionBlock;
constexpr float kLog2E = 1.44269504f;
constexpr int64_t kPrefetchRows = 12;  // some 50 cache lines in flight, what a core can track

FATHOM_INLINE int64_t num_blocks(int64_t tokens) { return (tokens + kBlock - 1) / kBlock; }

// Padded sizes, in values and in 32-bit units.
template <typename Product>
struct Sizes {
  static constexpr int64_t kPerUnit = Product::kValuesPerUnit;
  static constexpr int64_t kBlockUnits = kBlock / kPerUnit;
  explicit Sizes(const AttentionShape& shape)
      : blocks(num_blocks(shape.seq_length)),
        qk_dim(round_up(shape.qk_head_dim, Product::kDimMultiple)),
        v_dim(round_up(shape.v_head_dim, Product::kDimMultiple)),
        qk_units(qk_dim / kPerUnit),
        v_units(v_dim / kPerUnit) {}
  int64_t blocks, qk_dim, v_dim, qk_units, v_units;
};

// Hands out 64-byte aligned pieces of the scratch; with a null base it only counts.
struct Arena {
  char* base;
  std::size_t used = 0;
  F32* floats(int64_t count) {
    F32* piece = reinterpret_cast<F32*>(base + used);
    used += static_cast<std::size_t>(round_up(count, 16)) * 4;
    return piece;
  }
};

// 2^x for x <= 0 (exactly 0 for -inf); kTerms of the polynomial: 5 for fp32 (1 ulp), 4 where the result
// becomes bf16.
template <int kTerms>
FATHOM_INLINE Vec exp2_nonpositive(Vec x) {
  // The scaling of either set gives 0 at its end: past the denormals, or an exponent field of 0.
  x = max(splat(kWidth == 16 ? -200.0f : -127.0f), x);
  const Vec n = round_to_integer(x);
  const Vec f = x - n;
  Vec p;
  if constexpr (kTerms == 5) {
    p = fma(splat(1.326472711e-03f), f, splat(9.671512855e-03f));
    p = fma(p, f, splat(5.550733745e-02f));
    p = fma(p, f, splat(2.402224208e-01f));
    p = fma(p, f, splat(6.931469776e-01f));
  } else {
    p = fma(splat(9.582853156e-03f), f, splat(5.590642665e-02f));
    p = fma(p, f, splat(2.402409862e-01f));
    p = fma(p, f, splat(6.931241932e-01f));
  }
  p = fma(p, f, splat(1.0f));
#if defined(__AVX512F__)
  return times_power_of_two(p, n);
#else
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return p * _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
#endif
}

// Rows of one head lie on different pages: the hardware does not foresee the next one.
template <typename T>
FATHOM_INLINE void prefetch_row(const T* row, int64_t dim) {
  const char* p = reinterpret_cast<const char*>(row);
  for (int64_t i = 0; i < dim * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(p + i);
}

// Rows of one head into a block of 64 packed rows of `units`, zeros beyond. A packed row holds T itself (bf16
// pairs) or fp32.
template <typename Product, typename T>
void pack_rows(const T* from, int64_t stride, int64_t rows, int64_t dim, F32* to, int64_t units) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = from + r * stride;
    if (r + kPrefetchRows < rows) prefetch_row(row + kPrefetchRows * stride, dim);
    F32* packed = to + r * units;
    if constexpr (Product::kValuesPerUnit == 2) {
      std::memset(packed + dim / 2, 0, static_cast<std::size_t>(units - dim / 2) * 4);
      std::memcpy(packed, row, static_cast<std::size_t>(dim) * 2);
    } else {
      int64_t i = 0;
      for (; i + kWidth <= dim; i += kWidth) store(packed + i, load(row + i));
      for (; i < units; i += kWidth) store(packed + i, load_first(row + i, max_of(0, dim - i)));
    }
  }
  std::memset(to + rows * units, 0, static_cast<std::size_t>((kBlock - rows) * units) * 4);
}

#if defined(__AVX512BF16__)
// Two rows of fp32 -> 32 bf16 as pairs (low half from `even`): a row of units along K.
FATHOM_INLINE __m512i pair_units(Vec even, Vec odd) {
  const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
  alignas(64) static constexpr uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), both);
}
// Rows of bf16 pairs along the dim, [64][units], to pairs along the tokens, [32][2 * units].
void pair_rows(const F32* rows, int64_t units, F32* to) {
  const __m512i low = _mm512_set1_epi32(0xffff);
  for (int64_t r = 0; r < kBlock; r += 2)
    for (int64_t u = 0; u < units; u += 16) {
      const __m512i even = _mm512_loadu_si512(rows + r * units + u),
                    odd = _mm512_loadu_si512(rows + (r + 1) * units + u);
      const __m512i first_values = _mm512_or_si512(_mm512_and_si512(even, low), _mm512_slli_epi32(odd, 16));
      const __m512i second_values =
          _mm512_or_si512(_mm512_srli_epi32(even, 16), _mm512_andnot_si512(low, odd));
      // first_values: dims 0, 2, 4 ... of the pair of rows; interleaved with the second they are in order
      // again.
      const __m512i lo = _mm512_unpacklo_epi32(first_values, second_values);
      const __m512i hi = _mm512_unpackhi_epi32(first_values, second_values);
      F32* out = to + (r / 2) * (2 * units) + 2 * u;
      const __m512i a = _mm512_shuffle_i32x4(lo, hi, 0x44), b = _mm512_shuffle_i32x4(lo, hi, 0xee);
      _mm512_storeu_si512(out, _mm512_shuffle_i32x4(a, a, 0xd8));
      _mm512_storeu_si512(out + 16, _mm512_shuffle_i32x4(b, b, 0xd8));
    }
}
#endif

// From packed rows [64][units]: the B operand whose K runs over tokens, [64 / per unit][dim].
template <typename Product>
void pack_token_pairs(const F32* rows, int64_t units, F32* to) {
#if defined(__AVX512BF16__)
  if constexpr (Product::kValuesPerUnit == 2) {
    pair_rows(rows, units, to);
    return;
  }
#endif
  std::memcpy(to, rows, static_cast<std::size_t>(kBlock * units) * 4);
}

// From packed rows: the A operand [dim][64 / per unit], whose K runs over tokens. `staging` holds 64 * units.
template <typename Product>
void pack_dims(const F32* rows, int64_t units, F32* to, F32* staging) {
  if constexpr (Product::kValuesPerUnit == 2) {
    pack_token_pairs<Product>(rows, units, staging);
    transpose(staging, 2 * units, kBlock / 2, 2 * units, to, kBlock / 2);
  } else {
    transpose(rows, units, kBlock, units, to, kBlock);
  }
}

template <typename T>
FATHOM_INLINE void prefetch_for_write(T* row, int64_t dim) {
  char* p = reinterpret_cast<char*>(row);
  for (int64_t i = 0; i < dim * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(p + i, 1);
}

template <typename T>
FATHOM_INLINE void store_row(T* to, const F32* from, int64_t count, float factor) {
  FATHOM_FOR_VECTORS(i, 0, count, store_n(to + i, load_n(from + i, n) * splat(factor), n););
}

// What a block of 64 queries may see: [lo, hi] per query (hi < lo: nothing), and the bounds over the block.
struct QueryRange {
  alignas(64) int32_t lo[kBlock], hi[kBlock];
  int64_t first_key;   // the least of lo
  int64_t last_of_lo;  // the greatest of lo
  FATHOM_INLINE bool is_whole(int64_t key_block, int64_t query_block) const {
    return key_block < query_block && last_of_lo <= key_block * kBlock;
  }
};

void fill_query_range(const int32_t* doc_start, int64_t seq_length, int64_t query_block, QueryRange& range) {
  const int64_t begin = query_block * kBlock;
  range.first_key = seq_length;
  range.last_of_lo = 0;
  for (int64_t i = 0; i < kBlock; ++i) {
    const int64_t token = begin + i;
    int64_t lo = seq_length;  // beyond the sequence: nothing
    if (token < seq_length) lo = doc_start ? max_of(0, doc_start[token]) : 0;
    range.lo[i] = static_cast<int32_t>(lo);
    range.hi[i] = static_cast<int32_t>(token < seq_length ? token : -1);
    if (lo <= token) range.first_key = min_of(range.first_key, lo);
    if (token < seq_length) range.last_of_lo = max_of(range.last_of_lo, lo);
  }
}

constexpr int64_t kVectors = kBlock / kWidth;  // of a row of 64 queries

// Scores outside the range become -inf.
void mask_scores(F32* scores, const QueryRange& range, int64_t key_block) {
  const Vec minus_infinity = splat(-__builtin_inff());
  for (int64_t v = 0; v < kVectors; ++v) {
    const IVec lo = load_int(range.lo + v * kWidth), hi = load_int(range.hi + v * kWidth);
    for (int64_t r = 0; r < kBlock; ++r) {
      const IVec key = splat_int(static_cast<int32_t>(key_block * kBlock + r));
      F32* p = scores + r * kBlock + v * kWidth;
      store(p, select(either(greater(lo, key), greater(key, hi)), minus_infinity, load(p)));
    }
  }
}

template <typename Product>
struct ForwardScratch {
  F32 *keys, *values;             // all blocks: [64][qk_units]; [v_dim][64 units] (A operands)
  F32 *rows, *staging, *queries;  // one block: packed rows, staging, [qk_units][64]
  F32 *scores, *probs, *out;      // [64][64], [64 units][64] (the same memory for fp32), [v_dim][64]
  std::size_t bytes;
  ForwardScratch(const Sizes<Product>& z, void* base) {
    Arena arena{static_cast<char*>(base)};
    const int64_t widest = max_of(z.qk_units, z.v_units);
    keys = arena.floats(z.blocks * kBlock * z.qk_units);
    values = arena.floats(z.blocks * z.v_dim * z.kBlockUnits);
    rows = arena.floats(kBlock * max_of(widest, z.v_dim));
    staging = arena.floats(kBlock * widest);
    queries = arena.floats(z.qk_units * kBlock);
    scores = arena.floats(kBlock * kBlock);
    probs = z.kPerUnit == 1 ? scores : arena.floats(z.kBlockUnits * kBlock);
    out = arena.floats(z.v_dim * kBlock);
    bytes = arena.used;
  }
};

// One step of the online softmax over a block of scores [64 keys][64 queries]: updates maximum and sum,
// leaves P^T as the B operand of the next product, and the factors for what was accumulated before. Returns
// whether any factor differs from 1.
template <typename Product>
FATHOM_INLINE bool softmax_step(const F32* scores, float scale, F32* probs, F32* maximum, F32* sum,
                                F32* factor) {
  constexpr int kTerms = Product::kValuesPerUnit == 2 ? 4 : 5;
  const Vec minus_infinity = splat(-__builtin_inff());
  bool rescale = false;
  for (int64_t v = 0; v < kVectors; ++v) {
    const F32* column = scores + v * kWidth;
    Vec m0 = minus_infinity, m1 = minus_infinity;
    for (int64_t r = 0; r < kBlock; r += 2) {
      m0 = max(m0, load(column + r * kBlock));
      m1 = max(m1, load(column + (r + 1) * kBlock));
    }
    const Vec before = load(maximum + v * kWidth);
    const Vec after = max(max(m0, m1) * splat(scale), before);
    store(maximum + v * kWidth, after);
    // A query that has seen nothing yet: subtract 0 instead of -inf, so that all its terms are 2^-inf = 0.
    const Vec offset = select(equal(after, minus_infinity), zero(), zero() - after);
    const Vec f = exp2_nonpositive<5>(before + offset);
    store(factor + v * kWidth, f);
    rescale |= !all(equal(f, splat(1.0f)));
    Vec s0 = zero(), s1 = zero();
    for (int64_t r = 0; r < kBlock; r += 2) {
      const Vec p0 = exp2_nonpositive<kTerms>(fma(load(column + r * kBlock), splat(scale), offset));
      const Vec p1 = exp2_nonpositive<kTerms>(fma(load(column + (r + 1) * kBlock), splat(scale), offset));
      s0 = s0 + p0;
      s1 = s1 + p1;
#if defined(__AVX512BF16__)
      if constexpr (Product::kValuesPerUnit == 2) {
        _mm512_storeu_si512(probs + (r / 2) * kBlock + v * kWidth, pair_units(p0, p1));
        continue;
      }
#endif
      store(probs + r * kBlock + v * kWidth, p0);
      store(probs + (r + 1) * kBlock + v * kWidth, p1);
    }
    store(sum + v * kWidth, fma(load(sum + v * kWidth), f, s0 + s1));
  }
  return rescale;
}

template <typename Product, typename T>
void forward_task(const AttentionForwardParams& p, const AttentionTask& task, void* memory) {
  const AttentionShape& shape = p.shape;
  const Sizes<Product> z(shape);
  const ForwardScratch<Product> w(z, memory);
  [[maybe_unused]] typename Product::Session session;
  const int64_t seq_length = shape.seq_length, token_offset = task.sequence_idx * seq_length,
                head = task.head_idx;
  const T* q = static_cast<const T*>(p.q) + token_offset * p.q_token_stride + head * p.q_head_stride;
  const T* k = static_cast<const T*>(p.k) + token_offset * p.k_token_stride + head * p.k_head_stride;
  const T* v = static_cast<const T*>(p.v) + token_offset * p.v_token_stride + head * p.v_head_stride;
  T* out = static_cast<T*>(p.out) + token_offset * p.out_token_stride + head * p.out_head_stride;
  float* lse = p.lse + (task.sequence_idx * shape.num_heads + head) * seq_length;
  const int32_t* doc_start = p.doc_start ? p.doc_start + token_offset : nullptr;
  const float scale = static_cast<float>(shape.softmax_scale) * kLog2E;

  QueryRange range;
  int64_t first_key = seq_length;
  for (int64_t i = task.begin_block; i < task.end_block; ++i) {
    fill_query_range(doc_start, seq_length, i, range);
    first_key = min_of(first_key, range.first_key);
  }
  for (int64_t j = first_key / kBlock; j < task.end_block; ++j) {
    const int64_t rows = min_of(kBlock, seq_length - j * kBlock);
    pack_rows<Product>(k + j * kBlock * p.k_token_stride, p.k_token_stride, rows, shape.qk_head_dim,
                       w.keys + j * kBlock * z.qk_units, z.qk_units);
    pack_rows<Product>(v + j * kBlock * p.v_token_stride, p.v_token_stride, rows, shape.v_head_dim, w.rows,
                       z.v_units);
    pack_dims<Product>(w.rows, z.v_units, w.values + j * z.v_dim * z.kBlockUnits, w.staging);
  }

  alignas(64) float maximum[kBlock], sum[kBlock], factor[kBlock];
  for (int64_t i = task.begin_block; i < task.end_block; ++i) {
    fill_query_range(doc_start, seq_length, i, range);
    const int64_t queries = min_of(kBlock, seq_length - i * kBlock);
    pack_rows<Product>(q + i * kBlock * p.q_token_stride, p.q_token_stride, queries, shape.qk_head_dim,
                       w.rows, z.qk_units);
    transpose(w.rows, z.qk_units, kBlock, z.qk_units, w.queries, kBlock);
    for (int64_t c = 0; c < kBlock; ++c) {
      maximum[c] = -__builtin_inff();
      sum[c] = 0;
    }
    bool is_first = true;
    for (int64_t j = range.first_key / kBlock; j <= i; ++j) {
      Product::run({kBlock, kBlock, z.qk_units, w.keys + j * kBlock * z.qk_units, z.qk_units, w.queries,
                    kBlock, w.scores, kBlock, false});
      if (!range.is_whole(j, i)) mask_scores(w.scores, range, j);
      if (softmax_step<Product>(w.scores, scale, w.probs, maximum, sum, factor) && !is_first) {
        for (int64_t d = 0; d < z.v_dim; ++d)
          for (int64_t c = 0; c < kBlock; c += kWidth)
            store(w.out + d * kBlock + c, load(w.out + d * kBlock + c) * load(factor + c));
      }
      Product::run({z.v_dim, kBlock, z.kBlockUnits, w.values + j * z.v_dim * z.kBlockUnits, z.kBlockUnits,
                    w.probs, kBlock, w.out, kBlock, !is_first});
      is_first = false;
    }
    if (is_first)
      std::memset(w.out, 0, static_cast<std::size_t>(z.v_dim * kBlock) * 4);  // no query sees anything
    transpose(w.out, kBlock, z.v_dim, kBlock, w.rows, z.v_dim);
    for (int64_t c = 0; c < queries; ++c) {
      const bool is_empty = range.lo[c] > range.hi[c];
      float* lse_of = lse + i * kBlock + c;
      *lse_of = is_empty ? __builtin_inff() : (maximum[c] + __builtin_log2f(sum[c])) * 0.693147181f;
      T* row = out + (i * kBlock + c) * p.out_token_stride;
      if (c + kPrefetchRows < queries)
        prefetch_for_write(row + kPrefetchRows * p.out_token_stride, shape.v_head_dim);
      if (is_empty) {
        std::memset(row, 0, static_cast<std::size_t>(shape.v_head_dim) * sizeof(T));
      } else {
        store_row(row, w.rows + c * z.v_dim, shape.v_head_dim, 1.0f / sum[c]);
      }
    }
  }
}

template <typename Product>
struct BackwardScratch {
  F32 *queries_t, *queries;     // all blocks: [qk_units][64] and [64 units][qk_dim] (B operands)
  F32 *dout_t, *dout;           // all blocks: [v_units][64] and [64 units][v_dim]
  F32* dq_t;                    // all blocks: [qk_dim][64]
  F32 *lse, *delta;             // [blocks * 64]: lse in base 2, rowsum(dout * out)
  F32 *rows, *staging;          // one block
  F32 *keys, *keys_t, *values;  // one block: [64][qk_units], [qk_dim][64 units], [64][v_units] (A operands)
  F32 *probs, *dprobs;          // [64][64] fp32
  F32 *probs_a, *dscores_a, *dscores_b;  // [64][64 units] and [64 units][64]; all of fp32: probs and dprobs
  F32 *dk, *dv;                          // [64][qk_dim], [64][v_dim]
  std::size_t bytes;
  BackwardScratch(const Sizes<Product>& z, void* base) {
    Arena arena{static_cast<char*>(base)};
    const int64_t widest = max_of(z.qk_units, z.v_units);
    queries_t = arena.floats(z.blocks * z.qk_units * kBlock);
    queries = arena.floats(z.blocks * z.kBlockUnits * z.qk_dim);
    dout_t = arena.floats(z.blocks * z.v_units * kBlock);
    dout = arena.floats(z.blocks * z.kBlockUnits * z.v_dim);
    dq_t = arena.floats(z.blocks * z.qk_dim * kBlock);
    lse = arena.floats(z.blocks * kBlock);
    delta = arena.floats(z.blocks * kBlock);
    rows = arena.floats(kBlock * max_of(widest, z.qk_dim));
    staging = arena.floats(kBlock * widest);
    keys = arena.floats(kBlock * z.qk_units);
    keys_t = arena.floats(z.qk_dim * z.kBlockUnits);
    values = arena.floats(kBlock * z.v_units);
    probs = arena.floats(kBlock * kBlock);
    dprobs = arena.floats(kBlock * kBlock);
    probs_a = probs;
    dscores_a = dscores_b = dprobs;
    if (z.kPerUnit == 2) {
      probs_a = arena.floats(kBlock * z.kBlockUnits);
      dscores_a = arena.floats(kBlock * z.kBlockUnits);
      dscores_b = arena.floats(kBlock * z.kBlockUnits);
    }
    dk = arena.floats(kBlock * z.qk_dim);
    dv = arena.floats(kBlock * z.v_dim);
    bytes = arena.used;
  }
};

// From scores and dP^T ([key][query]): P^T = 2^(scale s - lse), dS^T = P^T (dP^T - delta), each in its
// operand layouts.
template <typename Product>
FATHOM_INLINE void softmax_backward_step(const BackwardScratch<Product>& w, float scale, const F32* lse,
                                         const F32* delta) {
  constexpr int kTerms = Product::kValuesPerUnit == 2 ? 4 : 5;
  constexpr int64_t kColumnStep = Product::kValuesPerUnit == 2 ? 2 : 1;  // a vector of bf16 takes two of fp32
  for (int64_t v = 0; v < kVectors; v += kColumnStep) {
    Vec offset[kColumnStep], row_delta[kColumnStep];
    for (int64_t c = 0; c < kColumnStep; ++c) {
      offset[c] = zero() - load(lse + (v + c) * kWidth);
      row_delta[c] = load(delta + (v + c) * kWidth);
    }
    for (int64_t r = 0; r < kBlock; r += 2) {
      Vec prob[2][kColumnStep], dscore[2][kColumnStep];
#pragma GCC unroll 2
      for (int64_t e = 0; e < 2; ++e) {
#pragma GCC unroll 2
        for (int64_t c = 0; c < kColumnStep; ++c) {
          const int64_t at = (r + e) * kBlock + (v + c) * kWidth;
          // Rounding may leave a score above its lse; the exponential takes that.
          prob[e][c] = exp2_nonpositive<kTerms>(fma(load(w.probs + at), splat(scale), offset[c]));
          dscore[e][c] = prob[e][c] * (load(w.dprobs + at) - row_delta[c]);
        }
      }
#if defined(__AVX512BF16__)
      if constexpr (Product::kValuesPerUnit == 2) {
        for (int64_t e = 0; e < 2; ++e) {
          const int64_t at = (r + e) * (kBlock / 2) + v * kWidth / 2;
          _mm512_storeu_si512(w.probs_a + at,
                              reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(prob[e][1], prob[e][0])));
          _mm512_storeu_si512(w.dscores_a + at,
                              reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(dscore[e][1], dscore[e][0])));
        }
        for (int64_t c = 0; c < 2; ++c)
          _mm512_storeu_si512(w.dscores_b + (r / 2) * kBlock + (v + c) * kWidth,
                              pair_units(dscore[0][c], dscore[1][c]));
        continue;
      }
#endif
      for (int64_t e = 0; e < 2; ++e) {
        store(w.probs + (r + e) * kBlock + v * kWidth, prob[e][0]);
        store(w.dprobs + (r + e) * kBlock + v * kWidth, dscore[e][0]);
      }
    }
  }
}

template <typename Product, typename T>
void backward_task(const AttentionBackwardParams& p, const AttentionTask& task, void* memory) {
  const AttentionShape& shape = p.shape;
  const Sizes<Product> z(shape);
  const BackwardScratch<Product> w(z, memory);
  [[maybe_unused]] typename Product::Session session;
  const int64_t seq_length = shape.seq_length, token_offset = task.sequence_idx * seq_length,
                head = task.head_idx;
  const auto head_of = [&](const void* x, int64_t token_stride, int64_t head_stride) {
    return static_cast<const T*>(x) + token_offset * token_stride + head * head_stride;
  };
  const T* q = head_of(p.q, p.q_token_stride, p.q_head_stride);
  const T* k = head_of(p.k, p.k_token_stride, p.k_head_stride);
  const T* v = head_of(p.v, p.v_token_stride, p.v_head_stride);
  const T* out = head_of(p.out, p.out_token_stride, p.out_head_stride);
  const T* dout = head_of(p.dout, p.dout_token_stride, p.dout_head_stride);
  T* dq = const_cast<T*>(head_of(p.dq, p.dq_token_stride, p.dq_head_stride));
  T* dk = const_cast<T*>(head_of(p.dk, p.dk_token_stride, p.dk_head_stride));
  T* dv = const_cast<T*>(head_of(p.dv, p.dv_token_stride, p.dv_head_stride));
  const float* lse = p.lse + (task.sequence_idx * shape.num_heads + head) * seq_length;
  const int32_t* doc_start = p.doc_start ? p.doc_start + token_offset : nullptr;
  const float scale = static_cast<float>(shape.softmax_scale), scale2 = scale * kLog2E;

  for (int64_t i = 0; i < z.blocks; ++i) {
    const int64_t begin = i * kBlock, rows = min_of(kBlock, seq_length - begin);
    pack_rows<Product>(q + begin * p.q_token_stride, p.q_token_stride, rows, shape.qk_head_dim, w.rows,
                       z.qk_units);
    transpose(w.rows, z.qk_units, kBlock, z.qk_units, w.queries_t + i * z.qk_units * kBlock, kBlock);
    pack_token_pairs<Product>(w.rows, z.qk_units, w.queries + i * z.kBlockUnits * z.qk_dim);
    pack_rows<Product>(dout + begin * p.dout_token_stride, p.dout_token_stride, rows, shape.v_head_dim,
                       w.rows, z.v_units);
    transpose(w.rows, z.v_units, kBlock, z.v_units, w.dout_t + i * z.v_units * kBlock, kBlock);
    pack_token_pairs<Product>(w.rows, z.v_units, w.dout + i * z.kBlockUnits * z.v_dim);
    for (int64_t r = 0; r < kBlock; ++r) {
      w.lse[begin + r] = r < rows ? lse[begin + r] * kLog2E : __builtin_inff();
      Vec products = zero();
      if (r < rows) {
        const T* out_row = out + (begin + r) * p.out_token_stride;
        if (r + kPrefetchRows < rows)
          prefetch_row(out_row + kPrefetchRows * p.out_token_stride, shape.v_head_dim);
        const T* dout_row = dout + (begin + r) * p.dout_token_stride;
        FATHOM_FOR_VECTORS(d, 0, shape.v_head_dim,
                           products = fma(load_n(out_row + d, n), load_n(dout_row + d, n), products););
      }
      w.delta[begin + r] = sum_of(products);
    }
  }
  std::memset(w.dq_t, 0, static_cast<std::size_t>(z.blocks * z.qk_dim * kBlock) * 4);

  QueryRange range;
  for (int64_t j = 0; j < z.blocks; ++j) {
    const int64_t begin = j * kBlock, rows = min_of(kBlock, seq_length - begin);
    pack_rows<Product>(k + begin * p.k_token_stride, p.k_token_stride, rows, shape.qk_head_dim, w.keys,
                       z.qk_units);
    pack_dims<Product>(w.keys, z.qk_units, w.keys_t, w.staging);
    pack_rows<Product>(v + begin * p.v_token_stride, p.v_token_stride, rows, shape.v_head_dim, w.values,
                       z.v_units);
    bool is_first = true;
    for (int64_t i = j; i < z.blocks; ++i) {
      fill_query_range(doc_start, seq_length, i, range);
      if (range.first_key >= begin + kBlock && i != j)
        continue;  // another document; the diagonal sets dk and dv
      Product::run({kBlock, kBlock, z.qk_units, w.keys, z.qk_units, w.queries_t + i * z.qk_units * kBlock,
                    kBlock, w.probs, kBlock, false});
      Product::run({kBlock, kBlock, z.v_units, w.values, z.v_units, w.dout_t + i * z.v_units * kBlock, kBlock,
                    w.dprobs, kBlock, false});
      if (!range.is_whole(j, i)) mask_scores(w.probs, range, j);
      softmax_backward_step<Product>(w, scale2, w.lse + i * kBlock, w.delta + i * kBlock);
      Product::run({kBlock, z.v_dim, z.kBlockUnits, w.probs_a, z.kBlockUnits,
                    w.dout + i * z.kBlockUnits * z.v_dim, z.v_dim, w.dv, z.v_dim, !is_first});
      Product::run({kBlock, z.qk_dim, z.kBlockUnits, w.dscores_a, z.kBlockUnits,
                    w.queries + i * z.kBlockUnits * z.qk_dim, z.qk_dim, w.dk, z.qk_dim, !is_first});
      Product::run({z.qk_dim, kBlock, z.kBlockUnits, w.keys_t, z.kBlockUnits, w.dscores_b, kBlock,
                    w.dq_t + i * z.qk_dim * kBlock, kBlock, true});
      is_first = false;
    }
    for (int64_t r = 0; r < rows; ++r) {
      if (r + kPrefetchRows < rows) {
        prefetch_for_write(dk + (begin + r + kPrefetchRows) * p.dk_token_stride, shape.qk_head_dim);
        prefetch_for_write(dv + (begin + r + kPrefetchRows) * p.dv_token_stride, shape.v_head_dim);
      }
      store_row(dk + (begin + r) * p.dk_token_stride, w.dk + r * z.qk_dim, shape.qk_head_dim, scale);
      store_row(dv + (begin + r) * p.dv_token_stride, w.dv + r * z.v_dim, shape.v_head_dim, 1.0f);
    }
  }
  for (int64_t i = 0; i < z.blocks; ++i) {
    const int64_t begin = i * kBlock, rows = min_of(kBlock, seq_length - begin);
    transpose(w.dq_t + i * z.qk_dim * kBlock, kBlock, z.qk_dim, kBlock, w.rows, z.qk_dim);
    for (int64_t r = 0; r < rows; ++r) {
      T* row = dq + (begin + r) * p.dq_token_stride;
      if (r + kPrefetchRows < rows)
        prefetch_for_write(row + kPrefetchRows * p.dq_token_stride, shape.qk_head_dim);
      store_row(row, w.rows + r * z.qk_dim, shape.qk_head_dim, scale);
    }
  }
}

template <typename Product>
std::size_t scratch_bytes(const AttentionShape& shape, bool backward) {
  const Sizes<Product> z(shape);
  return backward ? BackwardScratch<Product>(z, nullptr).bytes : ForwardScratch<Product>(z, nullptr).bytes;
}

}  // namespace

// FATHOM_BF16_PRODUCT: how this set multiplies blocks of bf16.
std::size_t attention_scratch_bytes(const AttentionShape& shape, bool backward) {
  if (shape.dtype == DType::bf16) return scratch_bytes<FATHOM_BF16_PRODUCT>(shape, backward);
  return scratch_bytes<VectorProduct<MultiplyF32>>(shape, backward);
}

void attention_forward_task(const AttentionForwardParams& params, const AttentionTask& task, void* scratch) {
  if (params.shape.dtype == DType::bf16) {
    forward_task<FATHOM_BF16_PRODUCT, bf16>(params, task, scratch);
  } else {
    forward_task<VectorProduct<MultiplyF32>, float>(params, task, scratch);
  }
}

void attention_backward_task(const AttentionBackwardParams& params, const AttentionTask& task,
                             void* scratch) {
  if (params.shape.dtype == DType::bf16) {
    backward_task<FATHOM_BF16_PRODUCT, bf16>(params, task, scratch);
  } else {
    backward_task<VectorProduct<MultiplyF32>, float>(params, task, scratch);
  }
}

}  // namespace fathom::kernels::FATHOM_SET

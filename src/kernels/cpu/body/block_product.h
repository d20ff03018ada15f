// Products of small packed blocks, the arithmetic of attention: C [M, N] (+)= A [M, K] B [K, N], C in fp32.
// Operands are arrays of 32-bit units along K: one fp32 value, or a pair of bf16 values (k, k + 1), the first
// in the low half. A is row-major [M][units], B [units][N]. The same layouts feed vdpbf16ps and the tiles of
// AMX.
#pragma once

#include "kernels/cpu/body/vec.h"

namespace fathom::kernels::FATHOM_SET {
namespace {

struct BlockOperands {
  int64_t m, n, units;  // n: a multiple of 16
  const F32* a;         // [m][units], row stride lda
  int64_t lda;
  const F32* b;  // [units][n], row stride ldb
  int64_t ldb;
  F32* c;  // [m][n], row stride ldc
  int64_t ldc;
  bool accumulate;
};

struct MultiplyF32 {
  static constexpr int64_t kValuesPerUnit = 1;
  static FATHOM_INLINE Vec add_product(Vec sum, Vec a, Vec b) { return fma(a, b, sum); }
};

#if defined(__AVX512BF16__)
struct MultiplyBf16 {
  static constexpr int64_t kValuesPerUnit = 2;
  static FATHOM_INLINE Vec add_product(Vec sum, Vec a, Vec b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};
#endif

// Six rows by four vectors (two with 16 registers): accumulators, one row of B and a broadcast fill the
// register file, and each load of B is used six times.
constexpr int kTileRows = 6;
constexpr int kTileVectors = kWidth == 16 ? 4 : 2;

template <typename Multiply, int kRows, int kVectors>
FATHOM_INLINE void product_tile(const BlockOperands& op, int64_t row, int64_t column) {
  const F32* a = op.a + row * op.lda;
  const F32* b = op.b + column;
  F32* c = op.c + row * op.ldc + column;
  Vec sum[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = op.accumulate ? load(c + r * op.ldc + v * kWidth) : zero();
  }
  for (int64_t k = 0; k < op.units; ++k) {
    Vec b_row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) b_row[v] = load(b + v * kWidth);
    b += op.ldb;
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const Vec value = splat(a[r * op.lda + k]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = Multiply::add_product(sum[r][v], value, b_row[v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(c + r * op.ldc + v * kWidth, sum[r][v]);
  }
}

template <typename Multiply, int kVectors>
__attribute__((noinline)) void product_panel(const BlockOperands& op, int64_t column) {
  int64_t row = 0;
  for (; row + kTileRows <= op.m; row += kTileRows)
    product_tile<Multiply, kTileRows, kVectors>(op, row, column);
  for (; row + 2 <= op.m; row += 2) product_tile<Multiply, 2, kVectors>(op, row, column);
  if (row < op.m) product_tile<Multiply, 1, kVectors>(op, row, column);
}

template <typename Multiply>
struct VectorProduct {
  static constexpr int64_t kValuesPerUnit = Multiply::kValuesPerUnit;
  static constexpr int64_t kDimMultiple = 16 * kValuesPerUnit;
  struct Session {};  // nothing to set up in a thread
  static void run(const BlockOperands& op) {
    int64_t column = 0;
    for (; column + kTileVectors * kWidth <= op.n; column += kTileVectors * kWidth)
      product_panel<Multiply, kTileVectors>(op, column);
    const int64_t rest = (op.n - column) / kWidth;
    if (rest == 1) product_panel<Multiply, 1>(op, column);
    if constexpr (kTileVectors > 2) {
      if (rest == 2) product_panel<Multiply, 2>(op, column);
      if (rest == 3) product_panel<Multiply, 3>(op, column);
    }
  }
};

}  // namespace
}  // namespace fathom::kernels::FATHOM_SET

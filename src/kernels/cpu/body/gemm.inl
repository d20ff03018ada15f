// One block of kernels/gemm.h: B is packed once for all rows of the block, panel by panel; rows of A are
// packed a chunk at a time. A piece of 512 values of the depth of one panel stays in the first cache while it
// meets the rows of the chunk, which stream from the second. The sums of a tile of rows by a panel live in a
// dense tile of scratch until the depth is done and leave it in the type of the result.
#include "kernels/cpu/body/block_product.h"
#include "kernels/dispatch.h"

#ifndef FATHOM_ROW_SET
#define FATHOM_ROW_SET FATHOM_SET  // whose loops over rows of values are used
#endif

namespace fathom::kernels::FATHOM_SET {
namespace {

// What a Product says of itself: the units of one piece of the depth, the tile of sums, the multiple that
// rows of A are padded to, and whether packed rows lie in squares of 16 x 16 units, each dense, instead of
// one by one.
template <typename Product>
struct Cut {
  static constexpr int64_t kPanel = Product::kPanel, kTileRows = Product::kTileRows,
                           kChunkRows = 4 * kTileRows;
};

constexpr int64_t kRowsAhead = 8, kResultRowsAhead = 2;  // prefetched

#if defined(__AVX512BF16__)
FATHOM_INLINE __m512i load_values(const bf16* p, int64_t n) {  // up to 32
  if (n >= 32) return _mm512_loadu_si512(p);
  return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << max_of(n, 0)) - 1), p);
}
#endif

// A vector of units from consecutive values along the depth, zeros past n values.
template <typename Product, typename T>
FATHOM_INLINE void load_units(const T* p, int64_t n, F32* to) {
#if defined(__AVX512BF16__)
  if constexpr (Product::kValuesPerUnit == 2) {
    _mm512_storeu_si512(to, load_values(p, n));
    return;
  }
#endif
  store(to, n >= kWidth ? load(p) : load_first(p, max_of(n, 0)));
}

// Columns [0, 32) of one unit along the depth, from values `stride` apart; zeros past `columns` and `depth`.
template <typename Product, typename T>
FATHOM_INLINE void load_unit_row(const T* p, [[maybe_unused]] int64_t stride, int64_t depth, int64_t columns,
                                 F32* to) {
#if defined(__AVX512BF16__)
  if constexpr (Product::kValuesPerUnit == 2) {
    const __m512i even = load_values(p, depth > 0 ? columns : 0);
    const __m512i odd = load_values(depth > 1 ? p + stride : p, depth > 1 ? columns : 0);
    // Values 0 .. 15 of the two in turn, then 16 .. 31.
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i low_order =
        _mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(32)), 16));
    const __m512i high_order = _mm512_add_epi16(low_order, _mm512_set1_epi16(16));
    _mm512_storeu_si512(to, _mm512_permutex2var_epi16(even, low_order, odd));
    _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(even, high_order, odd));
    return;
  }
#endif
  for (int64_t c = 0; c < 32; c += kWidth) {
    const int64_t n = depth > 0 ? columns - c : 0;
    store(to + c, n >= kWidth ? load(p + c) : n > 0 ? load_first(p + c, n) : zero());
  }
}

template <typename Product>
FATHOM_INLINE F32* packed_row(F32* to, int64_t row, int64_t unit, int64_t units) {
  if constexpr (Product::kPacksSquares) return to + row / 16 * (16 * units) + unit * 16 + row % 16 * 16;
  return to + row * units + unit;
}

// `rows` rows of `depth` consecutive values to rows of units.
template <typename Product, typename T>
void pack_along_depth(const T* from, int64_t stride, int64_t rows, int64_t depth, F32* to, int64_t units) {
  constexpr int64_t kPerUnit = Product::kValuesPerUnit;
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = from + r * stride;
    for (int64_t u = 0; u < units; u += kWidth) {
      __builtin_prefetch(row + kRowsAhead * stride + u * kPerUnit);
      load_units<Product>(row + u * kPerUnit, depth - u * kPerUnit, packed_row<Product>(to, r, u, units));
    }
  }
}

// The same from [depth][rows].
template <typename Product, typename T>
void pack_across_depth(const T* from, int64_t stride, int64_t rows, int64_t depth, F32* to, int64_t units) {
  constexpr int64_t kPerUnit = Product::kValuesPerUnit, kRowStride = Product::kPacksSquares ? 16 : 0;
  alignas(64) F32 square[kWidth * 32];
  for (int64_t u = 0; u < units; u += kWidth) {
    for (int64_t r = 0; r < rows; r += 32) {
      for (int64_t i = 0; i < kWidth; ++i) {
        const int64_t value = (u + i) * kPerUnit;
        const T* p = from + min_of(value, depth - 1) * stride + r;
        for (int64_t v = 0; v < kPerUnit; ++v) __builtin_prefetch(p + (kWidth * kPerUnit + v) * stride);
        load_unit_row<Product>(p, stride, depth - value, rows - r, square + i * 32);
      }
      for (int64_t s = 0; s < 32 && r + s < rows; s += kWidth)
        transpose_square(square + s, 32, packed_row<Product>(to, r + s, u, units),
                         kRowStride ? kRowStride : units);
    }
  }
}

// Panels of B, each [units][kPanel], from [depth][columns].
template <typename Product, typename T>
void pack_panels(const T* from, int64_t stride, int64_t columns, int64_t depth, F32* to, int64_t units) {
  constexpr int64_t kPanel = Cut<Product>::kPanel, kPerUnit = Product::kValuesPerUnit;
  for (int64_t u = 0; u < units; ++u) {
    const int64_t value = u * kPerUnit;
    const T* row = from + min_of(value, depth - 1) * stride;
    F32* panel_row = to + u * kPanel;
    for (int64_t column = 0; column < columns; column += kPanel, panel_row += units * kPanel)
      for (int64_t c = column; c < column + kPanel; c += 32) {
        for (int64_t v = 0; v < kPerUnit; ++v) __builtin_prefetch(row + (kRowsAhead + v) * stride + c);
        load_unit_row<Product>(c < columns ? row + c : row, stride, depth - value, max_of(0, columns - c),
                               panel_row + c - column);
      }
  }
}

// The same from [columns][depth].
template <typename Product, typename T>
void pack_panel_transposed(const T* from, int64_t stride, int64_t columns, int64_t depth, F32* to,
                           int64_t units) {
  constexpr int64_t kPanel = Cut<Product>::kPanel, kPerUnit = Product::kValuesPerUnit;
  alignas(64) F32 square[kWidth * kWidth];
  for (int64_t u = 0; u < units; u += kWidth) {
    for (int64_t c = 0; c < kPanel; c += kWidth) {
      F32* out = to + u * kPanel + c;
      const T* p = from + u * kPerUnit;
      if (sizeof(T) * kPerUnit == 4 && stride % kPerUnit == 0 && c + kWidth <= columns &&
          (u + kWidth) * kPerUnit <= depth) {
        for (int64_t i = 0; i < kWidth; ++i)
          __builtin_prefetch(p + (c + i + kPanel) * stride);  // the next panel
        transpose_square(reinterpret_cast<const F32*>(p + c * stride), stride / kPerUnit, out, kPanel);
        continue;
      }
      for (int64_t i = 0; i < kWidth; ++i)
        load_units<Product>(p + min_of(c + i, columns - 1) * stride,
                            c + i < columns ? depth - u * kPerUnit : 0, square + i * kWidth);
      transpose_square(square, kWidth, out, kPanel);
    }
  }
}

// Rows of B that lie as fp8 blocks to dense rows of bf16, `to_stride` apart: columns [column, column + columns) and values
// [value, value + depth) of the depth.
void dequantize_rows(const GemmBlock& g, int64_t column, int64_t columns, int64_t value, int64_t depth,
                     bf16* to, int64_t to_stride) {
  const uint8_t* codes = static_cast<const uint8_t*>(g.b);
  for (int64_t c = column; c < column + columns; ++c, to += to_stride) {
    const float* scales = g.b_scales + c / kFp8Block * g.b_scale_stride;
    for (int64_t v = value, end = value + depth; v < end;) {
      const int64_t stop = min_of(end, (v / kFp8Block + 1) * kFp8Block);
      kernels::FATHOM_ROW_SET::dequantize_fp8_range(codes + c * g.ldb + v, scales[v / kFp8Block], stop - v,
                                                    to + (v - value));
      v = stop;
    }
  }
}

#if defined(__AVX512BF16__)
FATHOM_INLINE void store_rounded(const F32* from, bf16* to) {  // 32 values
  const __m512bh both = _mm512_cvtne2ps_pbh(load(from + 16), load(from));
  _mm512_storeu_si512(to, reinterpret_cast<__m512i>(both));
}
#endif

template <typename Out>
FATHOM_INLINE void finish_row(const F32* from, int64_t columns, Out* to, bool accumulate) {
  if (accumulate) {
    FATHOM_FOR_VECTORS(i, 0, columns, store_n(to + i, load_n(from + i, n) + load_n(to + i, n), n););
    return;
  }
  int64_t done = 0;
#if defined(__AVX512BF16__)
  if constexpr (sizeof(Out) == 2)
    for (; done + 32 <= columns; done += 32) store_rounded(from + done, to + done);
#endif
  FATHOM_FOR_VECTORS(i, done, columns, store_n(to + i, load_n(from + i, n), n););
}

// Lines of the next piece of A, asked for a few at a time while the present one is multiplied.
struct Ahead {
  const char* line;
  int64_t row_lines, row_step_bytes;  // lines of a row; from past its last line to the next row
  int64_t left, column = 0;
  FATHOM_INLINE void ask(int64_t count) {
    for (count = min_of(count, left), left -= count; count > 0; --count) {
      __builtin_prefetch(line, 0, 2);
      line += 64;
      if (++column == row_lines) {
        column = 0;
        line += row_step_bytes;
      }
    }
  }
};
FATHOM_INLINE Ahead ahead_of(const void* from, int64_t stride_bytes, int64_t rows, int64_t row_bytes) {
  const int64_t lines = (row_bytes + 63) / 64;
  return {static_cast<const char*>(from), lines, stride_bytes - 64 * lines, rows * lines};
}

struct GemmSizes {
  int64_t units, pieces, panels;
  bool keeps_sums;  // of a whole row: over pieces, or to walk a large result from end to end
  std::size_t b_floats, a_floats, sum_floats;
};

template <typename Product>
FATHOM_INLINE GemmSizes sizes_of(const GemmBlock& g) {
  using C = Cut<Product>;
  GemmSizes z;
  z.units = round_up(g.depth, Product::kDimMultiple) / Product::kValuesPerUnit;
  z.pieces = (z.units + Product::kPieceUnits - 1) / Product::kPieceUnits;
  z.panels = (g.columns + C::kPanel - 1) / C::kPanel;
  z.keeps_sums = z.pieces > 1 || g.out_dtype == DType::f32;
  z.b_floats = static_cast<std::size_t>(z.units * z.panels * C::kPanel);
  z.a_floats = static_cast<std::size_t>(round_up(C::kChunkRows, 32) * min_of(z.units, Product::kPieceUnits));
  z.sum_floats = static_cast<std::size_t>(C::kChunkRows * C::kPanel * (z.keeps_sums ? z.panels : 1));
  return z;
}

template <typename Product, typename T, typename Out>
void product_block(const GemmBlock& g, void* memory) {
  using C = Cut<Product>;
  constexpr int64_t kPerUnit = Product::kValuesPerUnit;
  const GemmSizes z = sizes_of<Product>(g);
  F32* packed_b = static_cast<F32*>(memory);
  F32* packed_a = packed_b + z.b_floats;
  F32* sums = packed_a + z.a_floats;
  const T *a = static_cast<const T*>(g.a), *b = static_cast<const T*>(g.b);
  Out* c = static_cast<Out*>(g.c);
  [[maybe_unused]] typename Product::Session session;

  for (int64_t unit = 0; unit < z.units; unit += Product::kPieceUnits) {
    const int64_t units = min_of(Product::kPieceUnits, z.units - unit),
                  depth = min_of(units * kPerUnit, g.depth - unit * kPerUnit);
    F32* to = packed_b + unit * z.panels * C::kPanel;
    if (!g.is_b_transposed) {
      pack_panels<Product>(b + unit * kPerUnit * g.ldb, g.ldb, g.columns, depth, to, units);
      continue;
    }
    for (int64_t column = 0; column < g.columns; column += C::kPanel) {
      const int64_t columns = min_of(C::kPanel, g.columns - column);
      if constexpr (sizeof(T) == 2) {
        if (g.b_scales) {
          constexpr int64_t kValues = Product::kPieceUnits * kPerUnit;
          alignas(64) T rows[C::kPanel * kValues];
          dequantize_rows(g, column, columns, unit * kPerUnit, depth, rows, kValues);
          pack_panel_transposed<Product>(rows, kValues, columns, depth, to + column * units, units);
          continue;
        }
      }
      pack_panel_transposed<Product>(b + column * g.ldb + unit * kPerUnit, g.ldb, columns, depth,
                                     to + column * units, units);
    }
  }

  for (int64_t row = 0; row < g.rows; row += C::kChunkRows) {
    const int64_t rows = min_of(C::kChunkRows, g.rows - row),
                  padded_rows = round_up(rows, Product::kRowMultiple);
    for (int64_t unit = 0; unit < z.units; unit += Product::kPieceUnits) {
      const int64_t units = min_of(Product::kPieceUnits, z.units - unit),
                    depth = min_of(units * kPerUnit, g.depth - unit * kPerUnit);
      const bool is_first = unit == 0, is_last = unit + units == z.units;
      if (g.is_a_transposed) {
        pack_across_depth<Product>(a + unit * kPerUnit * g.lda + row, g.lda, rows, depth, packed_a, units);
      } else {
        pack_along_depth<Product>(a + row * g.lda + unit * kPerUnit, g.lda, rows, depth, packed_a, units);
      }
      for (int64_t r = rows; r < padded_rows; ++r)
        for (int64_t u = 0; u < units; u += kWidth) store(packed_row<Product>(packed_a, r, u, units), zero());
      const int64_t next_row = is_last ? row + rows : row, next_depth = is_last ? 0 : unit * kPerUnit + depth;
      const int64_t next_rows = min_of(C::kChunkRows, g.rows - next_row),
                    next_values = min_of(Product::kPieceUnits * kPerUnit, g.depth - next_depth);
      constexpr int64_t kSize = sizeof(T);
      Ahead ahead =
          g.is_a_transposed
              ? ahead_of(a + next_depth * g.lda + next_row, g.lda * kSize, next_values, next_rows * kSize)
              : ahead_of(a + next_row * g.lda + next_depth, g.lda * kSize, next_rows, next_values * kSize);
      const int64_t lines_of_tile = ahead.left / (z.panels * ((rows + C::kTileRows - 1) / C::kTileRows)) + 1;
      for (int64_t r = 0; r < rows; r += C::kTileRows) {
        const int64_t tile_rows = min_of(C::kTileRows, rows - r);
        for (int64_t panel = 0; panel < z.panels; ++panel) {
          const int64_t column = panel * C::kPanel, columns = min_of(C::kPanel, g.columns - column);
          F32* tile = sums + (z.keeps_sums ? panel * C::kChunkRows + r : 0) * C::kPanel;
          ahead.ask(lines_of_tile);
          Product::run({round_up(tile_rows, Product::kRowMultiple), C::kPanel, units, packed_a + r * units,
                        units, packed_b + unit * z.panels * C::kPanel + panel * units * C::kPanel, C::kPanel,
                        tile, C::kPanel, !is_first});
          if (is_last && !z.keeps_sums)
            for (int64_t i = 0; i < tile_rows; ++i)
              finish_row(tile + i * C::kPanel, columns, c + (row + r + i) * g.ldc + column, g.accumulate);
        }
        if (is_last && z.keeps_sums)
          for (int64_t i = r; i < r + tile_rows; ++i)
            for (int64_t column = 0; column < g.columns; column += C::kPanel) {
              const int64_t columns = min_of(C::kPanel, g.columns - column);
              Out* out = c + (row + i) * g.ldc + column;
              for (int64_t j = 0; j < columns; j += 64 / static_cast<int64_t>(sizeof(Out)))
                __builtin_prefetch(out + kResultRowsAhead * g.ldc + j, 1);
              finish_row(sums + column * C::kChunkRows + i * C::kPanel, columns, out, g.accumulate);
            }
      }
    }
  }
}

struct GemmF32 : VectorProduct<MultiplyF32> {
  static constexpr int64_t kPieceUnits = 128, kPanel = kWidth == 16 ? 64 : 32, kTileRows = 24,
                           kRowMultiple = 1;
  static constexpr bool kPacksSquares = false;
};
#if defined(__AVX512BF16__)
struct GemmBf16 : VectorProduct<MultiplyBf16> {
  static constexpr int64_t kPieceUnits = 128, kPanel = 64, kTileRows = 24, kRowMultiple = 1;
  static constexpr bool kPacksSquares = false;
};
#endif

template <typename Product>
std::size_t bytes_of(const GemmBlock& g) {
  const GemmSizes z = sizes_of<Product>(g);
  return (z.b_floats + z.a_floats + z.sum_floats) * 4;
}

}  // namespace

// FATHOM_BF16_GEMM: how this set multiplies blocks of bf16.
std::size_t gemm_scratch_bytes(const GemmBlock& g) {
  if (g.dtype == DType::bf16) return bytes_of<FATHOM_BF16_GEMM>(g);
  return bytes_of<GemmF32>(g);
}

void gemm_block(const GemmBlock& g, void* scratch) {
  if (g.dtype != DType::bf16) {
    product_block<GemmF32, float, float>(g, scratch);
  } else if (g.out_dtype == DType::bf16) {
    product_block<FATHOM_BF16_GEMM, bf16, bf16>(g, scratch);
  } else {
    product_block<FATHOM_BF16_GEMM, bf16, float>(g, scratch);
  }
}

}  // namespace fathom::kernels::FATHOM_SET

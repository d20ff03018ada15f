// C (+)= A B on AMX tiles: four accumulators of 16 x 16, two tiles of A (16 rows x 16 pairs) and two of B (16
// pairs x 16 columns), so that each load feeds two products. The layouts are those of block_product.h as they
// stand.
#pragma once

#include "kernels/cpu/body/block_product.h"

namespace fathom::kernels::FATHOM_SET {
namespace {

// All eight tiles 16 rows x 64 bytes, for the life of the object.
class TileSession {
 public:
  TileSession() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    _tile_loadconfig(&config);
  }
  ~TileSession() { _tile_release(); }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;
};

// 32 rows of A: where the upper and the lower 16 begin, from row to row, and from 16 units to the next 16.
struct TileRows {
  const F32 *upper, *lower;
  int64_t row_step, depth_step;
};

// c [32, 32] (+)= A B, b [units, 32].
FATHOM_INLINE void multiply_tiles(TileRows a, const F32* b, int64_t ldb, int64_t units, F32* c, int64_t ldc,
                                  bool accumulate) {
  const int64_t a_bytes = a.row_step * 4, b_bytes = ldb * 4, c_bytes = ldc * 4;
  if (accumulate) {
    _tile_loadd(0, c, c_bytes);
    _tile_loadd(1, c + 16, c_bytes);
    _tile_loadd(2, c + 16 * ldc, c_bytes);
    _tile_loadd(3, c + 16 * ldc + 16, c_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < units; k += 16) {
    _tile_loadd(4, a.upper, a_bytes);
    _tile_loadd(6, b, b_bytes);
    _tile_loadd(7, b + 16, b_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a.lower, a_bytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    a.upper += a.depth_step;
    a.lower += a.depth_step;
    b += 16 * ldb;
  }
  _tile_stored(0, c, c_bytes);
  _tile_stored(1, c + 16, c_bytes);
  _tile_stored(2, c + 16 * ldc, c_bytes);
  _tile_stored(3, c + 16 * ldc + 16, c_bytes);
}

// Of attention: m and n are multiples of 32, units of 16.
struct TileProduct {
  static constexpr int64_t kValuesPerUnit = 2;
  static constexpr int64_t kDimMultiple = 32;
  using Session = TileSession;

  static void run(const BlockOperands& op) {
    for (int64_t column = 0; column < op.n; column += 32)
      for (int64_t row = 0; row < op.m; row += 32) {
        const F32* a = op.a + row * op.lda;
        multiply_tiles({a, a + 16 * op.lda, op.lda, 16}, op.b + column, op.ldb, op.units,
                       op.c + row * op.ldc + column, op.ldc, op.accumulate);
      }
  }
};

// Of the matrix products: one square of 32 x 32 a call. Rows of A come in squares of 16 x 16 units, so that a
// tile is 1 KiB in one piece.
struct GemmTiles {
  static constexpr int64_t kValuesPerUnit = 2, kDimMultiple = 32;
  static constexpr int64_t kPieceUnits = 128, kPanel = 32, kTileRows = 32, kRowMultiple = 32;
  static constexpr bool kPacksSquares = true;
  using Session = TileSession;

  static FATHOM_INLINE void run(const BlockOperands& op) {
    multiply_tiles({op.a, op.a + 16 * op.units, 16, 16 * 16}, op.b, kPanel, op.units, op.c, kPanel,
                   op.accumulate);
  }
};

}  // namespace
}  // namespace fathom::kernels::FATHOM_SET

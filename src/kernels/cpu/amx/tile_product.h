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

struct TileProduct {
  static constexpr int64_t kValuesPerUnit = 2;
  static constexpr int64_t kDimMultiple = 32;
  using Session = TileSession;

  // m and n are multiples of 16 (32 wherever two accumulators fit), units of 16.
  static void run(const BlockOperands& op) {
    for (int64_t column = 0; column < op.n; column += 32)
      for (int64_t row = 0; row < op.m; row += 32) square(op, row, column);
  }

 private:
  static FATHOM_INLINE void square(const BlockOperands& op, int64_t row, int64_t column) {
    const int64_t a_bytes = op.lda * 4, b_bytes = op.ldb * 4, c_bytes = op.ldc * 4;
    F32* c = op.c + row * op.ldc + column;
    if (op.accumulate) {
      _tile_loadd(0, c, c_bytes);
      _tile_loadd(1, c + 16, c_bytes);
      _tile_loadd(2, c + 16 * op.ldc, c_bytes);
      _tile_loadd(3, c + 16 * op.ldc + 16, c_bytes);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    const F32* a = op.a + row * op.lda;
    const F32* b = op.b + column;
    for (int64_t k = 0; k < op.units; k += 16) {
      _tile_loadd(4, a + k, a_bytes);
      _tile_loadd(6, b + k * op.ldb, b_bytes);
      _tile_loadd(7, b + k * op.ldb + 16, b_bytes);
      _tile_loadd(5, a + 16 * op.lda + k, a_bytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c + 16, c_bytes);
    _tile_stored(2, c + 16 * op.ldc, c_bytes);
    _tile_stored(3, c + 16 * op.ldc + 16, c_bytes);
  }
};

}  // namespace
}  // namespace fathom::kernels::FATHOM_SET

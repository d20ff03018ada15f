// bf16 blocks on the tiles of AMX; the packing is that of AVX-512.
#define FATHOM_SET amx
#define FATHOM_BF16_GEMM GemmTiles
#include "kernels/cpu/amx/tile_product.h"

namespace fathom::kernels::amx {
namespace {

// 32 x 32 sums at a time. Rows of A come in squares of 16 x 16 units, so that a tile is 1 KiB in one piece.
struct GemmTiles {
  static constexpr int64_t kValuesPerUnit = 2, kDimMultiple = 32;
  static constexpr int64_t kPieceUnits = 128, kPanel = 32, kTileRows = 32, kRowMultiple = 32;
  static constexpr bool kPacksSquares = true;
  using Session = TileSession;

  static FATHOM_INLINE void run(const BlockOperands& op) {
    if (op.accumulate) {
      _tile_loadd(0, op.c, 128);
      _tile_loadd(1, op.c + 16, 128);
      _tile_loadd(2, op.c + 16 * 32, 128);
      _tile_loadd(3, op.c + 16 * 32 + 16, 128);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    const F32 *a = op.a, *a_below = op.a + 16 * op.units, *b = op.b;
    for (int64_t k = 0; k < op.units; k += 16) {
      _tile_loadd(4, a + k * 16, 64);
      _tile_loadd(6, b + k * 32, 128);
      _tile_loadd(7, b + k * 32 + 16, 128);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, a_below + k * 16, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, op.c, 128);
    _tile_stored(1, op.c + 16, 128);
    _tile_stored(2, op.c + 16 * 32, 128);
    _tile_stored(3, op.c + 16 * 32 + 16, 128);
  }
};

}  // namespace
}  // namespace fathom::kernels::amx

#include "kernels/cpu/body/gemm.inl"

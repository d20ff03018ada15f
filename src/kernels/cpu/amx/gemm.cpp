// bf16 blocks on the tiles of AMX; the packing is that of AVX-512.
#define FATHOM_SET amx
#define FATHOM_BF16_GEMM GemmTiles
#include "kernels/cpu/amx/tile_product.h"

namespace fathom::kernels::amx {
namespace {

struct GemmTiles : TileProduct {
  static constexpr int64_t kPanel = 32, kTileRows = 32, kRowMultiple = 32;
};

}  // namespace
}  // namespace fathom::kernels::amx

#include "kernels/cpu/body/gemm.inl"

// bf16 blocks on the tiles of AMX; the packing is that of AVX-512.
#define FATHOM_SET amx
#define FATHOM_BF16_GEMM GemmTiles
#define FATHOM_ROW_SET avx512
#include "kernels/cpu/amx/tile_product.h"

#include "kernels/cpu/body/gemm.inl"

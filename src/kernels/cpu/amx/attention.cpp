// bf16 blocks on the tiles of AMX; the packing and the softmax are those of AVX-512.
#define FATHOM_SET amx
#define FATHOM_BF16_PRODUCT TileProduct
#include "kernels/cpu/amx/tile_product.h"

#include "kernels/cpu/body/attention.inl"

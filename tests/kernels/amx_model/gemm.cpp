// The body of src/kernels/cpu/amx/gemm.cpp over the model of the tiles.
#define FATHOM_SET amx_model
#define FATHOM_BF16_GEMM GemmTiles
#define FATHOM_ROW_SET avx512
#include "kernels/amx_model/tile_model.h"
#include "kernels/cpu/amx/tile_product.h"

#include "kernels/cpu/body/gemm.inl"

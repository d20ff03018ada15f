// bf16 is widened as it is packed.
#define FATHOM_SET avx2
#define FATHOM_BF16_GEMM GemmF32
#include "kernels/cpu/body/gemm.inl"

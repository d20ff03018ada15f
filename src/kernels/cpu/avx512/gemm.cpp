#define FATHOM_SET avx512
#define FATHOM_BF16_GEMM GemmBf16
#include "kernels/cpu/body/gemm.inl"

#define FATHOM_SET avx512
#define FATHOM_BF16_PRODUCT VectorProduct<MultiplyBf16>
#include "kernels/cpu/body/attention.inl"

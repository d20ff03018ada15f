// bf16 is widened as it is packed.
#define FATHOM_SET avx2
#define FATHOM_BF16_PRODUCT VectorProduct<MultiplyF32>
#include "kernels/cpu/body/attention.inl"

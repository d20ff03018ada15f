#define FATHOM_SET avx512
#include "kernels/cpu/body/cross_entropy.inl"

#define FATHOM_SET avx512
#include "kernels/cpu/body/fp8.inl"

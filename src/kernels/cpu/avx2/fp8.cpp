#define FATHOM_SET avx2
#include "kernels/cpu/body/fp8.inl"

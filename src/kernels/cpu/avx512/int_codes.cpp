#define FATHOM_SET avx512
#include "kernels/cpu/body/int_codes.inl"

#define FATHOM_SET avx2
#include "kernels/cpu/body/int_codes.inl"

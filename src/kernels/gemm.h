// Matrix products of training over rows sorted by group: one weight matrix a group, the linear layer with one
// group. Row-major, leading dimensions in elements, the last dim dense. m_e = offsets[e + 1] - offsets[e]
// rows belong to group e; an empty group costs nothing; any size may be 0.
//   nt    c_e [m_e, n] = a_e [m_e, k] w_e [n, k]^T        forward
//   nn    c_e [m_e, k] = a_e [m_e, n] w_e [n, k]          gradient of the rows
//   tn    g_e [n, k] (+)= d_e [m_e, n]^T x_e [m_e, k]     gradient of the weights
//
// Precision: bf16 inputs are multiplied exactly and summed in fp32 (avx512 and amx in pairs, by the
// processor's dot product, which flushes denormals); f32 is fp32 throughout. A sum is rounded once to the
// type of the result; tn sums the products first and then adds them to g. Reference: double. The order of a
// sum depends on its length and the set alone: the bits of a row are the same whatever the other rows, their
// number and the number of threads. No shape costs a preparation, so counts may change at every call.
// Scratch: the depth times 512 columns of packed values a thread at most.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace fathom::kernels {

struct GroupedGemmParams {
  DType dtype = DType::f32;          // of a and w
  DType out_dtype = DType::f32;      // of c: dtype, or f32 with bf16 inputs
  int64_t num_groups = 0;            // E
  const int64_t* offsets = nullptr;  // [E + 1] rising; rows of a and c
  int64_t n = 0, k = 0;              // of w: outputs and inputs of the layer
  const void* a = nullptr;           // nt [offsets[E], k], nn [offsets[E], n]
  int64_t lda = 0;
  const void* w = nullptr;  // [E, n, k]
  int64_t ldw = 0, w_group_stride = 0;
  void* c = nullptr;  // nt [offsets[E], n], nn [offsets[E], k]; must not alias inputs
  int64_t ldc = 0;
};

// The same from weights as files hold them, each wherever it lies: of nt's dtype, or fp8 in blocks of 128 x 128.
struct StoredMatrix {
  const void* values = nullptr;  // [n, k] of the dtype of a; with scales e4m3 codes
  int64_t ld = 0;
  const float* scales = nullptr;  // [ceil(n / 128), ceil(k / 128)] (fp8.h); null: values are of dtype
  int64_t scale_stride = 0;
};
// c_e = a_e w_e^T. fp8 weights (dtype bf16) are code * scale in fp32 rounded to bf16, a panel at a time as it is packed;
// the bits are those of grouped_gemm_nt on the weights so cast.
struct StoredGemmParams {
  DType dtype = DType::f32;          // of a
  DType out_dtype = DType::f32;      // of c: dtype, or f32 with bf16 inputs
  int64_t num_groups = 0;            // E
  const int64_t* offsets = nullptr;  // [E + 1] rising; rows of a and c
  int64_t n = 0, k = 0;
  const void* a = nullptr;  // [offsets[E], k]
  int64_t lda = 0;
  const StoredMatrix* w = nullptr;  // [E]; not looked at where the group has no rows
  void* c = nullptr;                // [offsets[E], n]; must not alias inputs
  int64_t ldc = 0;
};
void stored_gemm_nt(const StoredGemmParams& params);

struct GroupedGemmTnParams {
  DType dtype = DType::f32;          // of d and x
  DType grad_dtype = DType::f32;     // of g: dtype, or f32 with bf16 inputs
  int64_t num_groups = 0;            // E
  const int64_t* offsets = nullptr;  // [E + 1] rising; rows of d and x
  int64_t n = 0, k = 0;
  const void* d = nullptr;  // [offsets[E], n]
  int64_t ldd = 0;
  const void* x = nullptr;  // [offsets[E], k]
  int64_t ldx = 0;
  void* g = nullptr;  // [E, n, k]; must not alias inputs
  int64_t ldg = 0, g_group_stride = 0;
  bool overwrite = false;  // replace g (empty groups become zero) instead of adding to it
};

void grouped_gemm_nt(const GroupedGemmParams& params);
void grouped_gemm_nn(const GroupedGemmParams& params);
void grouped_gemm_tn(const GroupedGemmTnParams& params);

}  // namespace fathom::kernels

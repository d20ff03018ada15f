// Causal softmax attention for training, tiled so that the scores never exist as a whole: forward and
// backward. Source: FlashAttention-2 (arXiv 2307.08691), online softmax (arXiv 1805.02867).
//   s[t, u] = softmax_scale * <q[t], k[u]> for doc_start[t] <= u <= t, else -inf;  out[t] = sum_u
//   softmax(s[t])[u] v[u]
// Tokens are flat: token t of sequence b is row b * S + t. Value j of (row r, head n) of a tensor x lies at
// x[r * x_token_stride + n * x_head_stride + j]; strides count elements, the last dim is dense.
//
// Precision: bf16 inputs are multiplied exactly and summed in fp32; softmax in fp32; P and dS are rounded to
// bf16 before they meet v, k, q, dout where the inputs are bf16 (avx512, amx; avx2 keeps fp32). f32: fp32
// throughout. Reference: double. Deterministic; forward independent of the number of threads, backward too
// (one thread a head, blocks in order). A token with doc_start[t] > t attends to nothing: out 0, lse +inf,
// its gradients and contributions 0. Cost: S^2/2 * (Dqk + Dv) * 2 FLOP a head forward, 2.5 times that
// backward, blocks outside the documents skipped.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace fathom::kernels {

struct AttentionShape {
  DType dtype = DType::f32;   // of q, k, v, out, dout, dq, dk, dv
  int64_t num_sequences = 0;  // B
  int64_t seq_length = 0;     // S
  int64_t num_heads = 0;      // N
  int64_t qk_head_dim = 0;    // Dqk
  int64_t v_head_dim = 0;     // Dv
  double softmax_scale = 1;
};

struct AttentionForwardParams {
  AttentionShape shape;
  const void* q = nullptr;  // [B*S, N, Dqk]
  int64_t q_token_stride = 0, q_head_stride = 0;
  const void* k = nullptr;  // [B*S, N, Dqk]
  int64_t k_token_stride = 0, k_head_stride = 0;
  const void* v = nullptr;  // [B*S, N, Dv]
  int64_t v_token_stride = 0, v_head_stride = 0;
  const int32_t* doc_start = nullptr;  // [B*S] position within its sequence; may be null: 0 everywhere
  void* out = nullptr;                 // [B*S, N, Dv]; must not alias inputs
  int64_t out_token_stride = 0, out_head_stride = 0;
  float* lse = nullptr;  // [B, N, S] natural log of the softmax denominator, dense
};

struct AttentionBackwardParams {
  AttentionShape shape;
  const void* q = nullptr;  // as in forward
  int64_t q_token_stride = 0, q_head_stride = 0;
  const void* k = nullptr;
  int64_t k_token_stride = 0, k_head_stride = 0;
  const void* v = nullptr;
  int64_t v_token_stride = 0, v_head_stride = 0;
  const int32_t* doc_start = nullptr;
  const void* out = nullptr;  // [B*S, N, Dv] of forward
  int64_t out_token_stride = 0, out_head_stride = 0;
  const float* lse = nullptr;  // [B, N, S] of forward
  const void* dout = nullptr;  // [B*S, N, Dv]
  int64_t dout_token_stride = 0, dout_head_stride = 0;
  void* dq = nullptr;  // [B*S, N, Dqk], overwritten; so are dk and dv
  int64_t dq_token_stride = 0, dq_head_stride = 0;
  void* dk = nullptr;  // [B*S, N, Dqk]
  int64_t dk_token_stride = 0, dk_head_stride = 0;
  void* dv = nullptr;  // [B*S, N, Dv]
  int64_t dv_token_stride = 0, dv_head_stride = 0;
};

void attention_forward(const AttentionForwardParams& params);
void attention_backward(const AttentionBackwardParams& params);

}  // namespace fathom::kernels

// Multi-head latent attention for training, expanded form (DeepSeek-V3 report §2.1.1, eqs. 5-11): rotary embedding of
// the decoupled parts, then causal softmax attention. Decode over the latent cache is ops/latent_attention.h.
#pragma once

#include <ATen/core/Tensor.h>

namespace fathom::ops {

struct MlaShape {
  int64_t num_heads;         // N (of this rank)
  int64_t qk_nope_head_dim;  // H
  int64_t qk_rope_head_dim;  // R
  int64_t v_head_dim;        // V
  double softmax_scale;
  bool rope_interleave =
      true;  // pairs are (2i, 2i+1), as the published weights have them; false: (i, i + R/2)
};

// Positions and documents of a micro-batch of B sequences of S tokens (T = B * S).
struct SequenceLayout {
  int64_t num_sequences = 0;  // B
  int64_t seq_length = 0;     // S
  at::Tensor cos, sin;  // [T, R/2] float (double for double): of each token's position id, amplitude included
  at::Tensor
      document_start;  // [T] int32: the first position in its sequence that a token may attend to; undefined: 0
};

// q [T, N*(H+R)] (per head: nope, then rope), kv [T, N*(H+V)] (per head: k nope, then v), k_rope [T, R], not rotated.
// Returns [T, N*V].
// Scores and softmax accumulate in float. Gradients for q, kv and k_rope.
at::Tensor mla_attention(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& k_rope,
                         const MlaShape& shape, const SequenceLayout& layout);

// Rotates the pairs of x [T, heads, R] by the angles of cos/sin [T, R/2]; computed in float, returned in x's dtype, the
// values staying where they were. Differentiable.
at::Tensor rotate_pairs(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                        bool rope_interleave);

}  // namespace fathom::ops

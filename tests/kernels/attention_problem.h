// One attention problem in memory, and how far two bodies may differ on it.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention.h"
#include "kernels/support.h"

namespace fathom::kernels::testing {

struct AttentionCase {
  int64_t sequences, length, heads, qk_dim, v_dim;
  int64_t gap = 0;  // elements between heads that must be neither read nor written
  std::vector<int32_t> doc_start = {};
};

// One problem in memory: tensors [T, N, D] with gaps of NaN between the heads.
template <typename T>
struct AttentionProblem {
  explicit AttentionProblem(const AttentionCase& c, uint32_t seed = 1)
      : shape{dtype_of<T>(),
              c.sequences,
              c.length,
              c.heads,
              c.qk_dim,
              c.v_dim,
              1 / std::sqrt(double(c.qk_dim))},
        gap(c.gap),
        doc_start(c.doc_start) {
    const int64_t tokens = c.sequences * c.length;
    q = tensor(tokens, c.qk_dim, seed);
    k = tensor(tokens, c.qk_dim, seed + 1);
    v = tensor(tokens, c.v_dim, seed + 2);
    dout = tensor(tokens, c.v_dim, seed + 3);
    out = blank(tokens, c.v_dim);
    dq = blank(tokens, c.qk_dim);
    dk = blank(tokens, c.qk_dim);
    dv = blank(tokens, c.v_dim);
    lse.assign(static_cast<std::size_t>(tokens * c.heads), -7);
  }

  void forward() { attention_forward(forward_params()); }
  void backward() { attention_backward(backward_params()); }

  AttentionForwardParams forward_params() {
    AttentionForwardParams p;
    p.shape = shape;
    p.q = q.data(), p.q_token_stride = token_stride(shape.qk_head_dim),
    p.q_head_stride = shape.qk_head_dim + gap;
    p.k = k.data(), p.k_token_stride = p.q_token_stride, p.k_head_stride = p.q_head_stride;
    p.v = v.data(), p.v_token_stride = token_stride(shape.v_head_dim),
    p.v_head_stride = shape.v_head_dim + gap;
    p.out = out.data(), p.out_token_stride = p.v_token_stride, p.out_head_stride = p.v_head_stride;
    p.lse = lse.data();
    p.doc_start = doc_start.empty() ? nullptr : doc_start.data();
    return p;
  }

  AttentionBackwardParams backward_params() {
    AttentionBackwardParams p;
    p.shape = shape;
    const int64_t qk_token = token_stride(shape.qk_head_dim), qk_head = shape.qk_head_dim + gap;
    const int64_t v_token = token_stride(shape.v_head_dim), v_head = shape.v_head_dim + gap;
    p.q = q.data(), p.q_token_stride = qk_token, p.q_head_stride = qk_head;
    p.k = k.data(), p.k_token_stride = qk_token, p.k_head_stride = qk_head;
    p.v = v.data(), p.v_token_stride = v_token, p.v_head_stride = v_head;
    p.out = out.data(), p.out_token_stride = v_token, p.out_head_stride = v_head;
    p.dout = dout.data(), p.dout_token_stride = v_token, p.dout_head_stride = v_head;
    p.dq = dq.data(), p.dq_token_stride = qk_token, p.dq_head_stride = qk_head;
    p.dk = dk.data(), p.dk_token_stride = qk_token, p.dk_head_stride = qk_head;
    p.dv = dv.data(), p.dv_token_stride = v_token, p.dv_head_stride = v_head;
    p.lse = lse.data();
    p.doc_start = doc_start.empty() ? nullptr : doc_start.data();
    return p;
  }

  int64_t token_stride(int64_t dim) const { return shape.num_heads * (dim + gap); }
  std::vector<T> blank(int64_t tokens, int64_t dim) const {
    return std::vector<T>(static_cast<std::size_t>(tokens * token_stride(dim)), from_double<T>(NAN));
  }
  std::vector<T> tensor(int64_t tokens, int64_t dim, uint32_t seed) const {
    return random_rows<T>(tokens * shape.num_heads, dim, gap, seed);
  }

  AttentionShape shape;
  int64_t gap;
  std::vector<int32_t> doc_start;
  std::vector<T> q, k, v, out, dout, dq, dk, dv;
  std::vector<float> lse;
};

// Sums of n products in fp32 err by a random walk, so about sqrt(n) of half an ulp of the largest terms;
// scores up to `s` turn an error of eps into s * eps of their exponential. bf16 adds the rounding of P, dS
// and the result.
template <typename T>
Bound attention_bound(const AttentionProblem<T>& p, const std::vector<T>& expected, double top_score) {
  const double sums = std::sqrt(double(p.shape.seq_length + p.shape.qk_head_dim)) + 4 * top_score;
  const double eps = kEpsF32 * sums;
  const double size = std::max(
      1.0,
      largest_finite(expected));  // inputs are of order 1: where all cancels (S = 1) their rounding stays
  if (sizeof(T) == 2) return {kEpsBf16, (kEpsBf16 + eps) * size, 2e-5};
  return {eps, eps * size, eps * eps};  // the cosine differs by half the square of the relative error
}

}  // namespace fathom::kernels::testing

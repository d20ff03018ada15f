#include "ops/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>

#include <limits>

#include "ops/runtime.h"

namespace fathom::ops {
namespace {

// [B, 1, S, S]: true where a query may see a key.
at::Tensor visible_keys(const SequenceLayout& layout, const at::Tensor& like) {
  const int64_t S = layout.seq_length, B = layout.num_sequences;
  const at::Tensor position = at::arange(S, like.options().dtype(at::kLong));
  const at::Tensor causal = position.unsqueeze(0) <= position.unsqueeze(1);
  if (!layout.document_start.defined()) return causal.view({1, 1, S, S});
  const at::Tensor start = layout.document_start.to(at::kLong).view({B, S, 1});
  return (causal.unsqueeze(0) & (position.view({1, 1, S}) >= start)).unsqueeze(1);
}

at::Tensor composed_attention(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& k_rope,
                              const MlaShape& s, const SequenceLayout& layout) {
  const int64_t B = layout.num_sequences, S = layout.seq_length, T = B * S, N = s.num_heads;
  const int64_t H = s.qk_nope_head_dim, R = s.qk_rope_head_dim, V = s.v_head_dim;
  const at::Tensor q_TNd = q.view({T, N, H + R}), kv_TNd = kv.view({T, N, H + V});
  const at::Tensor q_rope = rotate_pairs(q_TNd.narrow(2, H, R), layout.cos, layout.sin);
  const at::Tensor k_rotated = rotate_pairs(k_rope.view({T, 1, R}), layout.cos, layout.sin);
  const auto heads_first = [&](const at::Tensor& x) { return x.view({B, S, N, -1}).transpose(1, 2); };
  const at::Tensor query = heads_first(at::cat({q_TNd.narrow(2, 0, H), q_rope}, 2));
  const at::Tensor key = heads_first(at::cat({kv_TNd.narrow(2, 0, H), k_rotated.expand({T, N, R})}, 2));
  const at::Tensor value = heads_first(kv_TNd.narrow(2, H, V).contiguous());
  const at::ScalarType precise = accumulate_dtype(q);
  const at::Tensor scores = (at::matmul(query, key.transpose(2, 3)) * s.softmax_scale).to(precise);
  const at::Tensor masked =
      scores.masked_fill(visible_keys(layout, q).logical_not(), -std::numeric_limits<double>::infinity());
  const at::Tensor weights = at::softmax(masked, -1).to(q.scalar_type());
  return at::matmul(weights, value).transpose(1, 2).reshape({T, N * V});
}

}  // namespace

at::Tensor rotate_pairs(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const at::Tensor pairs = x.to(cos.scalar_type()).unflatten(2, {x.size(2) / 2, 2});
  const at::Tensor first = pairs.select(3, 0), second = pairs.select(3, 1);
  const at::Tensor c = cos.unsqueeze(1), s = sin.unsqueeze(1);
  return at::stack({first * c - second * s, second * c + first * s}, 3).flatten(2).to(x.scalar_type());
}

at::Tensor mla_attention(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& k_rope, const MlaShape& shape,
                         const SequenceLayout& layout) {
  return composed_attention(q, kv, k_rope, shape, layout);
}

}  // namespace fathom::ops

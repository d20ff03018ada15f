#include "ops/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>

#include "kernels/attention.h"
#include "kernels/rope.h"
#include "ops/kernel_args.h"
#include "ops/runtime.h"

namespace fathom::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

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
  const at::Tensor q_rope = rotate_pairs(q_TNd.narrow(2, H, R), layout.cos, layout.sin, s.rope_interleave);
  const at::Tensor k_rotated =
      rotate_pairs(k_rope.view({T, 1, R}), layout.cos, layout.sin, s.rope_interleave);
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

// The queries and keys that the kernel reads: rotated copies, [T, N, H+R].
struct RotatedHeads {
  at::Tensor query, key;
};

void rotate_in_place(const at::Tensor& heads, int64_t first, int64_t rope_dim, const SequenceLayout& layout,
                     bool inverse, bool rope_interleave) {
  if (!rope_interleave) {  // rare: no published weights of the family are laid out so
    at::Tensor part = heads.narrow(2, first, rope_dim);
    part.copy_(rotate_pairs(part, layout.cos, inverse ? -layout.sin : layout.sin, false));
    return;
  }
  kernels::RopeParams params;
  params.dtype = kernel_dtype(heads);
  params.num_tokens = heads.size(0);
  params.num_heads = heads.size(1);
  params.rope_dim = rope_dim;
  at::Tensor part = heads.narrow(2, first, rope_dim);
  params.x = part.const_data_ptr();
  params.y = part.mutable_data_ptr();
  params.x_token_stride = params.y_token_stride = part.stride(0);
  params.x_head_stride = params.y_head_stride = part.stride(1);
  params.cos = layout.cos.const_data_ptr<float>();
  params.sin = layout.sin.const_data_ptr<float>();
  params.inverse = inverse;
  kernels::rope(params);
}

RotatedHeads rotate_heads(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& k_rope,
                          const MlaShape& s, const SequenceLayout& layout) {
  const int64_t T = q.size(0), N = s.num_heads, H = s.qk_nope_head_dim, R = s.qk_rope_head_dim;
  RotatedHeads heads;
  heads.query = at::empty({T, N, H + R}, q.options());
  heads.query.copy_(q.view({T, N, H + R}));
  rotate_in_place(heads.query, H, R, layout, false, s.rope_interleave);
  const at::Tensor rotated = k_rope.contiguous().clone().view({T, 1, R});
  rotate_in_place(rotated, 0, R, layout, false, s.rope_interleave);
  heads.key = at::empty({T, N, H + R}, q.options());
  heads.key.narrow(2, 0, H).copy_(kv.view({T, N, H + s.v_head_dim}).narrow(2, 0, H));
  heads.key.narrow(2, H, R).copy_(rotated.expand({T, N, R}));
  return heads;
}

template <typename Params>
void fill_inputs(Params& params, const RotatedHeads& heads, const at::Tensor& value, const at::Tensor& start,
                 const MlaShape& s, const SequenceLayout& layout) {
  params.shape = {kernel_dtype(value),
                  layout.num_sequences,
                  layout.seq_length,
                  s.num_heads,
                  s.qk_nope_head_dim + s.qk_rope_head_dim,
                  s.v_head_dim,
                  s.softmax_scale};
  params.q = heads.query.const_data_ptr();
  params.q_token_stride = heads.query.stride(0);
  params.q_head_stride = heads.query.stride(1);
  params.k = heads.key.const_data_ptr();
  params.k_token_stride = heads.key.stride(0);
  params.k_head_stride = heads.key.stride(1);
  params.v = value.const_data_ptr();
  params.v_token_stride = value.stride(0);
  params.v_head_stride = value.stride(1);
  params.doc_start = start.defined() ? start.const_data_ptr<int32_t>() : nullptr;
}

// Keeps the unrotated projections, the output and the log-sum-exp; rotates again in backward, which costs far less
// memory traffic than keeping every head's copy of the shared key.
struct MlaAttention : torch::autograd::Function<MlaAttention> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& kv,
                            const at::Tensor& k_rope, const MlaShape* shape, const SequenceLayout* layout) {
    const int64_t T = q.size(0), N = shape->num_heads, H = shape->qk_nope_head_dim, V = shape->v_head_dim;
    const RotatedHeads heads = rotate_heads(q.detach(), kv.detach(), k_rope.detach(), *shape, *layout);
    const at::Tensor value = kv.detach().view({T, N, H + V}).narrow(2, H, V);
    at::Tensor out = at::empty({T, N * V}, q.options());
    at::Tensor lse = at::empty({layout->num_sequences, N, layout->seq_length}, q.options().dtype(at::kFloat));
    kernels::AttentionForwardParams params;
    fill_inputs(params, heads, value, layout->document_start, *shape, *layout);
    params.out = out.mutable_data_ptr();
    params.out_token_stride = N * V;
    params.out_head_stride = V;
    params.lse = lse.mutable_data_ptr<float>();
    kernels::attention_forward(params);
    ctx->save_for_backward({q, kv, k_rope, out, lse, layout->cos, layout->sin, layout->document_start});
    ctx->saved_data["sequences"] = layout->num_sequences;
    ctx->saved_data["heads"] = N;
    ctx->saved_data["nope"] = H;
    ctx->saved_data["v"] = V;
    ctx->saved_data["scale"] = shape->softmax_scale;
    ctx->saved_data["interleave"] = shape->rope_interleave;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor q = saved[0].detach(), kv = saved[1].detach(), k_rope = saved[2].detach();
    const at::Tensor out = saved[3].detach(), dout = grads[0].contiguous();
    const at::Tensor &lse = saved[4], &start = saved[7];
    const int64_t T = q.size(0), R = k_rope.size(1);
    const MlaShape shape{ctx->saved_data["heads"].toInt(),
                         ctx->saved_data["nope"].toInt(),
                         R,
                         ctx->saved_data["v"].toInt(),
                         ctx->saved_data["scale"].toDouble(),
                         ctx->saved_data["interleave"].toBool()};
    SequenceLayout layout;
    layout.num_sequences = ctx->saved_data["sequences"].toInt();
    layout.seq_length = T / layout.num_sequences;
    layout.cos = saved[5];
    layout.sin = saved[6];
    const int64_t N = shape.num_heads, H = shape.qk_nope_head_dim, V = shape.v_head_dim;
    const RotatedHeads heads = rotate_heads(q, kv, k_rope, shape, layout);
    const at::Tensor value = kv.view({T, N, H + V}).narrow(2, H, V);
    at::Tensor dq = at::empty({T, N, H + R}, q.options()), dk = at::empty({T, N, H + R}, q.options());
    at::Tensor dkv = at::empty({T, N, H + V}, q.options());
    at::Tensor dv = dkv.narrow(2, H, V);
    kernels::AttentionBackwardParams params;
    fill_inputs(params, heads, value, start, shape, layout);
    params.out = out.const_data_ptr();
    params.lse = lse.const_data_ptr<float>();
    params.dout = dout.const_data_ptr();
    params.out_token_stride = params.dout_token_stride = N * V;
    params.out_head_stride = params.dout_head_stride = V;
    params.dq = dq.mutable_data_ptr();
    params.dk = dk.mutable_data_ptr();
    params.dv = dv.mutable_data_ptr();
    params.dq_token_stride = params.dk_token_stride = N * (H + R);
    params.dq_head_stride = params.dk_head_stride = H + R;
    params.dv_token_stride = dv.stride(0);
    params.dv_head_stride = dv.stride(1);
    kernels::attention_backward(params);
    rotate_in_place(dq, H, R, layout, true, shape.rope_interleave);
    dkv.narrow(2, 0, H).copy_(dk.narrow(2, 0, H));
    // The shared key's gradient is the sum over heads, in float, rotated back once.
    at::Tensor d_k_rope = dk.narrow(2, H, R).sum(1, false, at::kFloat).to(q.scalar_type()).view({T, 1, R});
    rotate_in_place(d_k_rope, 0, R, layout, true, shape.rope_interleave);
    const at::Tensor none;
    return {dq.view({T, N * (H + R)}), dkv.view({T, N * (H + V)}), d_k_rope.view({T, R}), none, none};
  }
};

}  // namespace

at::Tensor rotate_pairs(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                        bool rope_interleave) {
  const int64_t half = x.size(2) / 2;
  const at::Tensor wide = x.to(cos.scalar_type()), c = cos.unsqueeze(1), s = sin.unsqueeze(1);
  if (rope_interleave) {
    const at::Tensor pairs = wide.unflatten(2, {half, 2});
    const at::Tensor first = pairs.select(3, 0), second = pairs.select(3, 1);
    return at::stack({first * c - second * s, second * c + first * s}, 3).flatten(2).to(x.scalar_type());
  }
  const at::Tensor first = wide.narrow(2, 0, half), second = wide.narrow(2, half, half);
  return at::cat({first * c - second * s, second * c + first * s}, 2).to(x.scalar_type());
}

at::Tensor mla_attention(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& k_rope,
                         const MlaShape& shape, const SequenceLayout& layout) {
  if (use_kernels(q)) return MlaAttention::apply(q, kv, k_rope, &shape, &layout);
  return composed_attention(q, kv, k_rope, shape, layout);
}

}  // namespace fathom::ops

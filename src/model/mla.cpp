#include "model/mla.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>

#include "model/sequence_parallel.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/recompute.h"
#include "ops/runtime.h"

namespace fathom::model {
namespace {

std::string attention_name(int64_t layer, const char* suffix) {
  return config::layer_prefix(layer) + "self_attn." + suffix;
}

// q_a and kv_a read the same input, so they are one matrix. A q that tensor ranks cut stands alone.
ops::Weight& add_down_projection(weights::ParameterRegistry& registry, const ModelRanks& ranks,
                                 int64_t layer) {
  const config::ModelConfig& c = registry.model();
  const std::string kv = attention_name(layer, "kv_a_proj_with_mqa.weight");
  if (c.q_lora_rank == 0 && ranks.cuts_matrices()) return registry.add(kv);
  const int64_t q_rows = c.q_lora_rank > 0 ? c.q_lora_rank : c.num_attention_heads * c.qk_head_dim();
  return registry.add(attention_name(layer, "*_a_proj"), {q_rows + c.latent_dim(), c.hidden_size},
                      {attention_name(layer, c.q_lora_rank > 0 ? "q_a_proj.weight" : "q_proj.weight"), kv});
}

// The rows (dim 0) or columns of this rank's heads.
ops::Weight& add_heads(weights::ParameterRegistry& registry, const ModelRanks& ranks, int64_t dim,
                       const std::string& name) {
  std::vector<int64_t> shape = registry.table().at(name).shape;
  const int64_t heads = registry.model().num_attention_heads;
  const int64_t width = shape.at(static_cast<size_t>(dim)) / heads;
  const Share own = ranks.tensor_share(heads);
  shape[static_cast<size_t>(dim)] = own.count * width;
  return registry.add(name, shape, {weights::Slice{name, dim, own.begin * width, own.count * width}},
                      ranks.cuts_matrices() ? weights::Holders::replica : weights::Holders::stage);
}

}  // namespace

Mla::Mla(weights::ParameterRegistry& registry, const ModelRanks& ranks, int64_t layer)
    : ranks_(ranks),
      q_lora_rank_(registry.model().q_lora_rank),
      kv_lora_rank_(registry.model().kv_lora_rank),
      down_(add_down_projection(registry, ranks, layer)),
      kv_norm_(registry.add(attention_name(layer, "kv_a_layernorm.weight"))),
      kv_up_(add_heads(registry, ranks, 0, attention_name(layer, "kv_b_proj.weight"))),
      out_(add_heads(registry, ranks, 1, attention_name(layer, "o_proj.weight"))) {
  const config::ModelConfig& c = registry.model();
  shape_ = {ranks.tensor_share(c.num_attention_heads).count,
            c.qk_nope_head_dim,
            c.qk_rope_head_dim,
            c.v_head_dim,
            c.softmax_scale(),
            c.rope_interleave};
  if (q_lora_rank_ > 0) {
    q_a_norm_ = &registry.add(attention_name(layer, "q_a_layernorm.weight"));
    q_up_ = &add_heads(registry, ranks, 0, attention_name(layer, "q_b_proj.weight"));
  } else if (ranks.cuts_matrices()) {
    q_up_ = &add_heads(registry, ranks, 0, attention_name(layer, "q_proj.weight"));
  }
}

Mla::Projected Mla::split(const at::Tensor& down) const {
  const int64_t q_columns = down.size(1) - kv_lora_rank_ - shape_.qk_rope_head_dim;
  Projected p;
  p.query_latent = down.narrow(1, 0, q_columns);
  if (q_a_norm_) p.query_latent = ops::rms_norm(p.query_latent, *q_a_norm_, kLatentNormEps);
  p.kv_latent = ops::rms_norm(down.narrow(1, q_columns, kv_lora_rank_), kv_norm_, kLatentNormEps);
  p.k_rope = down.narrow(1, q_columns + kv_lora_rank_, shape_.qk_rope_head_dim);
  return p;
}

at::Tensor Mla::expand_and_attend(const Projected& p, const ForwardContext& context) const {
  const at::Tensor q = q_up_ ? ops::linear(p.query_latent, *q_up_) : p.query_latent.contiguous();
  return ops::mla_attention(q, ops::linear(p.kv_latent, kv_up_), p.k_rope, shape_, context.layout);
}

// Latents are made of this rank's tokens, and travel in one collective: they are all that the heads read, and much
// narrower than x (without query compression the query's input is x itself).
at::Tensor Mla::attend_in_parts(const at::Tensor& x, const ForwardContext& context) const {
  const Projected own = split(ops::linear(x, down_));
  const at::Tensor query = q_lora_rank_ > 0 ? own.query_latent : x;
  const at::Tensor all =
      gather_tokens(at::cat({query, own.kv_latent, own.k_rope}, 1), context.num_tokens(), ranks_);
  const int64_t q_columns = query.size(1);
  const Projected whole{all.narrow(1, 0, q_columns).contiguous(),
                        all.narrow(1, q_columns, kv_lora_rank_).contiguous(),
                        all.narrow(1, q_columns + kv_lora_rank_, shape_.qk_rope_head_dim)};
  return expand_and_attend(whole, context);
}

at::Tensor Mla::forward(const at::Tensor& x, const ForwardContext& context) const {
  const bool selective = context.recomputes_selectively();
  if (ranks_.cuts_matrices()) {
    const at::Tensor attended = selective
                                    ? ops::recompute(
                                          [this, context](const ops::TensorList& in) -> ops::TensorList {
                                            return {attend_in_parts(in[0], context)};
                                          },
                                          {x})[0]
                                    : attend_in_parts(x, context);
    return sum_to_own_tokens(ops::linear(attended, out_), ranks_);
  }
  const at::Tensor down = ops::linear(x, down_);
  if (!selective) return ops::linear(expand_and_attend(split(down), context), out_);
  const at::Tensor attended = ops::recompute(
      [this, context](const ops::TensorList& in) -> ops::TensorList {
        return {expand_and_attend(split(in[0]), context)};
      },
      {down})[0];
  return ops::linear(attended, out_);
}

at::Tensor Mla::prefill(const at::Tensor& x, const ForwardContext& context, LatentCache& cache,
                        int64_t cache_layer) const {
  const Projected p = split(ops::linear(x, down_));
  const at::Tensor rotated =
      ops::rotate_pairs(p.k_rope.unsqueeze(1), context.layout.cos, context.layout.sin, shape_.rope_interleave)
          .squeeze(1);
  cache.append(cache_layer, at::cat({p.kv_latent, rotated}, 1));
  return ops::linear(expand_and_attend(p, context), out_);
}

at::Tensor Mla::decode(const at::Tensor& x, const ForwardContext& context, LatentCache& cache,
                       int64_t cache_layer) const {
  const int64_t N = shape_.num_heads, H = shape_.qk_nope_head_dim, R = shape_.qk_rope_head_dim,
                V = shape_.v_head_dim;
  const int64_t C = kv_lora_rank_;
  const Projected p = split(ops::linear(x, down_));
  const at::Tensor rotated =
      ops::rotate_pairs(p.k_rope.unsqueeze(1), context.layout.cos, context.layout.sin, shape_.rope_interleave)
          .squeeze(1);
  cache.append(cache_layer, at::cat({p.kv_latent, rotated}, 1));
  const at::Tensor latents = cache.view(cache_layer, cache.length() + 1);  // [L, C+R]

  const at::Tensor q =
      (q_up_ ? ops::linear(p.query_latent, *q_up_) : p.query_latent.contiguous()).view({1, N, H + R});
  const at::Tensor q_rope =
      ops::rotate_pairs(q.narrow(2, H, R), context.layout.cos, context.layout.sin, shape_.rope_interleave);
  const at::Tensor kv_up = kv_up_.value.view({N, H + V, C});
  // [N, 1, H] x [N, H, C]: the query moves into the latent space
  const at::Tensor q_latent = at::bmm(q.narrow(2, 0, H).transpose(0, 1), kv_up.narrow(1, 0, H));
  const at::Tensor query = at::cat({q_latent.squeeze(1), q_rope.squeeze(0)}, 1);  // [N, C+R]
  const at::ScalarType precise = ops::accumulate_dtype(x);
  const at::Tensor scores = at::matmul(query, latents.t()).to(precise) * shape_.softmax_scale;
  const at::Tensor weights = at::softmax(scores, -1).to(x.scalar_type());
  const at::Tensor out_latent = at::matmul(weights, latents.narrow(1, 0, C)).unsqueeze(1);  // [N, 1, C]
  const at::Tensor out = at::bmm(out_latent, kv_up.narrow(1, H, V).transpose(1, 2)).reshape({1, N * V});
  return ops::linear(out, out_);
}

}  // namespace fathom::model

#include "infer/stored_layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include "model/mla.h"
#include "ops/activation.h"
#include "ops/moe.h"
#include "ops/norm.h"
#include "ops/router.h"

namespace fathom::infer {
namespace {

std::string attention_name(int64_t layer, const char* suffix) {
  return config::layer_prefix(layer) + "self_attn." + suffix;
}

ops::Weight norm_weight(const StoredWeights& weights, const std::string& name) {
  ops::Weight weight;
  weight.label = name;
  weight.value = weights.copy(name, weights.compute());
  return weight;
}

std::vector<StoredLinear> experts(const StoredWeights& weights, int64_t layer, const char* projection) {
  std::vector<StoredLinear> result;
  for (int64_t e = 0; e < weights.model().n_routed_experts; ++e)
    result.emplace_back(
        weights, fmt::format("{}mlp.experts.{}.{}.weight", config::layer_prefix(layer), e, projection));
  return result;
}

}  // namespace

StoredMlp::StoredMlp(const StoredWeights& weights, const std::string& prefix)
    : gate_(weights, prefix + "gate_proj.weight"),
      up_(weights, prefix + "up_proj.weight"),
      down_(weights, prefix + "down_proj.weight") {}

at::Tensor StoredMlp::forward(const at::Tensor& x) const {
  const int64_t F = gate_.out_features();
  const at::Tensor gate_up = at::empty({x.size(0), 2 * F}, x.options());
  gate_.apply(x, gate_up.narrow(1, 0, F));
  up_.apply(x, gate_up.narrow(1, F, F));
  return down_(ops::swiglu(gate_up));
}

StoredMoe::StoredMoe(const StoredWeights& weights, int64_t layer)
    : model_(weights.model()),
      router_(weights, config::layer_prefix(layer) + "mlp.gate.weight"),
      gate_(experts(weights, layer, "gate_proj")),
      up_(experts(weights, layer, "up_proj")),
      down_(experts(weights, layer, "down_proj")) {
  const std::string bias = config::layer_prefix(layer) + "mlp.gate.e_score_correction_bias";
  if (weights.find_spec(bias)) correction_bias_ = weights.copy(bias, at::kFloat);
  if (model_.n_shared_experts > 0)
    shared_.emplace(weights, config::layer_prefix(layer) + "mlp.shared_experts.");
}

at::Tensor StoredMoe::forward(const at::Tensor& x) const {
  // Products of bf16 are exact in float, so the router's logits are those of float32 without a wider copy of its weight.
  const at::Tensor logits = at::empty({x.size(0), model_.n_routed_experts}, x.options().dtype(at::kFloat));
  router_.apply(x, logits);
  const ops::Routing routing = ops::route(logits, correction_bias_, model_);
  const ops::DispatchPlan plan = ops::plan_dispatch(routing.indices, model_.n_routed_experts);
  const at::Tensor rows = ops::gather_rows(x, plan);
  const int64_t F = model_.moe_intermediate_size;
  const at::Tensor gate_up = at::empty({rows.size(0), 2 * F}, x.options());
  StoredLinear::apply_grouped(gate_, plan.offsets, rows, gate_up.narrow(1, 0, F));
  StoredLinear::apply_grouped(up_, plan.offsets, rows, gate_up.narrow(1, F, F));
  const at::Tensor out_rows = at::empty({rows.size(0), x.size(1)}, x.options());
  StoredLinear::apply_grouped(down_, plan.offsets, ops::swiglu(gate_up), out_rows);
  const at::Tensor y = ops::combine_rows(out_rows, routing.weights, plan);
  return shared_ ? y + shared_->forward(x) : y;
}

StoredAttention::StoredAttention(const StoredWeights& weights, int64_t layer)
    : kv_lora_rank_(weights.model().kv_lora_rank),
      query_(weights,
             attention_name(layer, weights.model().q_lora_rank > 0 ? "q_a_proj.weight" : "q_proj.weight")),
      kv_down_(weights, attention_name(layer, "kv_a_proj_with_mqa.weight")),
      kv_up_(weights, attention_name(layer, "kv_b_proj.weight")),
      out_(weights, attention_name(layer, "o_proj.weight")),
      kv_norm_(norm_weight(weights, attention_name(layer, "kv_a_layernorm.weight"))) {
  const config::ModelConfig& c = weights.model();
  shape_ = {c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim,
            c.v_head_dim,          c.softmax_scale(),  c.rope_interleave};
  if (c.q_lora_rank > 0) {
    query_up_.emplace(weights, attention_name(layer, "q_b_proj.weight"));
    query_norm_ = norm_weight(weights, attention_name(layer, "q_a_layernorm.weight"));
  }
}

at::Tensor StoredAttention::prefill(const at::Tensor& x, const ops::SequenceLayout& layout) {
  at::Tensor query = query_(x);
  if (query_up_) query = (*query_up_)(ops::rms_norm(query, query_norm_, model::kLatentNormEps));
  const at::Tensor down = kv_down_(x);
  const at::Tensor latent = ops::rms_norm(down.narrow(1, 0, kv_lora_rank_), kv_norm_, model::kLatentNormEps);
  const at::Tensor k_rope = down.narrow(1, kv_lora_rank_, shape_.qk_rope_head_dim);
  return out_(ops::mla_attention(query, kv_up_(latent), k_rope, shape_, layout));
}

StoredLayer::StoredLayer(const StoredWeights& weights, int64_t layer)
    : eps_(weights.model().rms_norm_eps),
      input_norm_(norm_weight(weights, config::layer_prefix(layer) + "input_layernorm.weight")),
      post_attention_norm_(
          norm_weight(weights, config::layer_prefix(layer) + "post_attention_layernorm.weight")),
      attention_(weights, layer) {
  if (weights.model().is_moe_layer(layer)) {
    moe_.emplace(weights, layer);
  } else {
    mlp_.emplace(weights, config::layer_prefix(layer) + "mlp.");
  }
}

at::Tensor StoredLayer::prefill(const at::Tensor& x, const ops::SequenceLayout& layout) {
  const at::NoGradGuard no_grad;
  const at::Tensor attended = x + attention_.prefill(ops::rms_norm(x, input_norm_, eps_), layout);
  const at::Tensor normed = ops::rms_norm(attended, post_attention_norm_, eps_);
  return attended + (moe_ ? moe_->forward(normed) : mlp_->forward(normed));
}

}  // namespace fathom::infer

#include "model/moe.h"

#include <ATen/TensorOperators.h>
#include <fmt/format.h>

#include <algorithm>

#include "ops/linear.h"
#include "ops/moe.h"
#include "ops/recompute.h"
#include "ops/router.h"

namespace fathom::model {
namespace {

ops::Weight& add_experts(weights::ParameterRegistry& registry, int64_t layer,
                         const std::vector<std::string>& parts, const char* label) {
  const std::string prefix = config::layer_prefix(layer) + "mlp.experts.";
  const config::ModelConfig& c = registry.model();
  std::vector<std::string> names;
  for (int64_t e = 0; e < c.n_routed_experts; ++e)
    for (const std::string& part : parts) names.push_back(fmt::format("{}{}.{}", prefix, e, part));
  std::vector<int64_t> shape = registry.table().at(names[0]).shape;
  shape[0] *= static_cast<int64_t>(parts.size());
  shape.insert(shape.begin(), c.n_routed_experts);
  return registry.add(prefix + label, shape, names);
}

}  // namespace

Moe::Moe(weights::ParameterRegistry& registry, int64_t layer)
    : config_(registry.model()),
      layer_(layer),
      gate_(registry.add(config::layer_prefix(layer) + "mlp.gate.weight")),
      experts_gate_up_(add_experts(registry, layer, {"gate_proj.weight", "up_proj.weight"}, "*.gate_up")),
      experts_down_(add_experts(registry, layer, {"down_proj.weight"}, "*.down")),
      load_(static_cast<size_t>(config_.n_routed_experts), 0) {
  const std::string bias = config::layer_prefix(layer) + "mlp.gate.e_score_correction_bias";
  if (registry.table().find(bias)) correction_bias_ = &registry.add(bias);
  if (config_.n_shared_experts > 0)
    shared_.emplace(registry, config::layer_prefix(layer) + "mlp.shared_experts.");
}

Moe::Output Moe::forward(const at::Tensor& x, const ForwardContext& context) {
  const at::Tensor logits = ops::linear_fp32(x, gate_);
  const ops::Routing routing =
      ops::route(logits, correction_bias_ ? correction_bias_->value : at::Tensor(), config_);
  const ops::DispatchPlan plan = ops::plan_dispatch(routing.indices, config_.n_routed_experts);
  if (!ops::is_recomputing()) {
    last_indices_ = routing.indices;
    if (context.count_load)
      for (int64_t e = 0; e < plan.num_experts; ++e) load_[static_cast<size_t>(e)] += plan.count(e);
  }
  Output output;
  output.y = ops::moe_experts(x, routing.weights, plan, experts_gate_up_, experts_down_);
  if (shared_) output.y = output.y + shared_->forward(x);
  if (context.balance_coefficient != 0)
    output.balance_loss = ops::sequence_balance_loss(routing.scores, context.layout.num_sequences,
                                                     config_.num_experts_per_tok) *
                          context.balance_coefficient;
  return output;
}

void Moe::clear_load() { std::fill(load_.begin(), load_.end(), 0); }

}  // namespace fathom::model

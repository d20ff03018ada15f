#include "model/moe.h"

#include <ATen/TensorOperators.h>
#include <fmt/format.h>

#include <algorithm>

#include "model/expert_parallel.h"
#include "model/sequence_parallel.h"
#include "ops/linear.h"
#include "ops/moe.h"
#include "ops/recompute.h"
#include "ops/router.h"

namespace fathom::model {
namespace {

ops::Weight& add_experts(weights::ParameterRegistry& registry, const ModelRanks& ranks, int64_t layer,
                         const std::vector<std::string>& parts, const char* label) {
  const std::string prefix = config::layer_prefix(layer) + "mlp.experts.";
  const config::ModelConfig& c = registry.model();
  const Share own = ranks.expert_share(c.n_routed_experts);
  std::vector<weights::Slice> slices;
  for (int64_t e = 0; e < c.n_routed_experts; ++e)
    for (const std::string& part : parts) {
      std::string name = fmt::format("{}{}.{}", prefix, e, part);
      if (e >= own.begin && e < own.begin + own.count)
        slices.push_back({std::move(name)});
      else
        registry.add_elsewhere(name);
    }
  std::vector<int64_t> shape = registry.table().at(slices.at(0).name).shape;
  shape[0] *= static_cast<int64_t>(parts.size());
  shape.insert(shape.begin(), own.count);
  return registry.add(prefix + label, shape, slices,
                      ranks.cuts_experts() ? weights::Holders::expert_data : weights::Holders::stage);
}

}  // namespace

Moe::Moe(weights::ParameterRegistry& registry, const ModelRanks& ranks, int64_t layer)
    : config_(registry.model()),
      ranks_(ranks),
      layer_(layer),
      gate_(registry.add(config::layer_prefix(layer) + "mlp.gate.weight")),
      experts_gate_up_(
          add_experts(registry, ranks, layer, {"gate_proj.weight", "up_proj.weight"}, "*.gate_up")),
      experts_down_(add_experts(registry, ranks, layer, {"down_proj.weight"}, "*.down")),
      load_(static_cast<size_t>(config_.n_routed_experts), 0) {
  const std::string bias = config::layer_prefix(layer) + "mlp.gate.e_score_correction_bias";
  if (registry.table().find(bias)) correction_bias_ = &registry.add(bias);
  if (config_.n_shared_experts > 0)
    shared_.emplace(registry, ranks, config::layer_prefix(layer) + "mlp.shared_experts.");
}

at::Tensor Moe::routed(const at::Tensor& x, const ops::Routing& routing, bool counts) {
  const auto count = [&](const ops::DispatchPlan& plan) {
    if (!counts) return;
    for (int64_t e = 0; e < plan.num_experts; ++e) load_[static_cast<size_t>(e)] += plan.count(e);
  };
  if (!ranks_.cuts_experts()) {
    const ops::DispatchPlan plan = ops::plan_dispatch(routing.indices, config_.n_routed_experts);
    count(plan);
    return ops::moe_experts(x, routing.weights, plan, experts_gate_up_, experts_down_);
  }
  const ExpertTrafficPtr traffic = plan_traffic(routing.indices, config_.n_routed_experts, *ranks_.expert);
  count(traffic->plan);
  const ArrivedRows arrived = send_to_experts(x, routing.weights, traffic);
  const at::Tensor y =
      ops::moe_experts(arrived.rows, arrived.weights, traffic->arrived, experts_gate_up_, experts_down_);
  return return_from_experts(y, traffic);
}

at::Tensor Moe::shared(const at::Tensor& x, const ForwardContext& context) const {
  return sum_to_own_tokens(shared_->forward(gather_tokens(x, context.num_tokens(), ranks_)), ranks_);
}

Moe::Output Moe::forward(const at::Tensor& x, const ForwardContext& context) {
  const at::Tensor logits = ops::linear_fp32(x, gate_);
  const ops::Routing routing =
      ops::route(logits, correction_bias_ ? correction_bias_->value : at::Tensor(), config_);
  if (!ops::is_recomputing()) last_indices_ = routing.indices;
  Output output;
  output.y = routed(x, routing, context.count_load && !ops::is_recomputing());
  if (shared_) output.y = output.y + shared(x, context);
  if (context.balance_coefficient != 0)
    output.balance_loss =
        ops::sequence_balance_loss(gather_tokens_once(routing.scores, context.num_tokens(), ranks_),
                                   context.layout.num_sequences, config_.num_experts_per_tok) *
        context.balance_coefficient;
  return output;
}

void Moe::clear_load() { std::fill(load_.begin(), load_.end(), 0); }

}  // namespace fathom::model

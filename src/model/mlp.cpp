#include "model/mlp.h"

#include "ops/linear.h"
#include "ops/mlp.h"

namespace fathom::model {
namespace {

ops::Weight& add_gate_up(weights::ParameterRegistry& registry, const std::string& prefix) {
  const std::vector<int64_t>& gate = registry.table().at(prefix + "gate_proj.weight").shape;
  return registry.add(prefix + "gate_up", {2 * gate[0], gate[1]},
                      {prefix + "gate_proj.weight", prefix + "up_proj.weight"});
}

}  // namespace

Mlp::Mlp(weights::ParameterRegistry& registry, const std::string& prefix)
    : gate_up_(add_gate_up(registry, prefix)), down_(registry.add(prefix + "down_proj.weight")) {}

at::Tensor Mlp::forward(const at::Tensor& x) const {
  return ops::swiglu_linear(ops::linear(x, gate_up_), down_);
}

}  // namespace fathom::model

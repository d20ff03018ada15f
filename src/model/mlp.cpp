#include "model/mlp.h"

#include "ops/linear.h"
#include "ops/mlp.h"

namespace fathom::model {
namespace {

using weights::Holders;
using weights::Slice;

ops::Weight& add_gate_up(weights::ParameterRegistry& registry, const ModelRanks& ranks,
                         const std::string& prefix) {
  const std::vector<int64_t>& gate = registry.table().at(prefix + "gate_proj.weight").shape;
  const Share units = ranks.tensor_share(gate[0]);
  return registry.add(prefix + "gate_up", {2 * units.count, gate[1]},
                      {Slice{prefix + "gate_proj.weight", 0, units.begin, units.count},
                       Slice{prefix + "up_proj.weight", 0, units.begin, units.count}},
                      ranks.cuts_matrices() ? Holders::replica : Holders::stage);
}

ops::Weight& add_down(weights::ParameterRegistry& registry, const ModelRanks& ranks,
                      const std::string& name) {
  const std::vector<int64_t>& down = registry.table().at(name).shape;
  const Share units = ranks.tensor_share(down[1]);
  return registry.add(name, {down[0], units.count}, {Slice{name, 1, units.begin, units.count}},
                      ranks.cuts_matrices() ? Holders::replica : Holders::stage);
}

}  // namespace

Mlp::Mlp(weights::ParameterRegistry& registry, const ModelRanks& ranks, const std::string& prefix)
    : gate_up_(add_gate_up(registry, ranks, prefix)),
      down_(add_down(registry, ranks, prefix + "down_proj.weight")) {}

at::Tensor Mlp::forward(const at::Tensor& x) const {
  return ops::swiglu_linear(ops::linear(x, gate_up_), down_);
}

}  // namespace fathom::model

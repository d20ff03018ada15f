// The dense gated MLP of the leading layers and of the shared experts.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "model/model_ranks.h"
#include "weights/parameter_registry.h"

namespace fathom::model {

class Mlp {
 public:
  // `prefix` such as "model.layers.0.mlp." or "model.layers.3.mlp.shared_experts."; the width comes from the table.
  // Tensor ranks have F/n of its hidden units each.
  Mlp(weights::ParameterRegistry& registry, const ModelRanks& ranks, const std::string& prefix);
  // [T, D] -> [T, D]; of cut matrices the part of the sum that this rank's hidden units make.
  at::Tensor forward(const at::Tensor& x) const;

 private:
  ops::Weight& gate_up_;  // [2F, D], gate rows first
  ops::Weight& down_;     // [D, F]
};

}  // namespace fathom::model

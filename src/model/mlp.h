// The dense gated MLP of the leading layers and of the shared experts.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "weights/parameter_registry.h"

namespace fathom::model {

class Mlp {
 public:
  // `prefix` such as "model.layers.0.mlp." or "model.layers.3.mlp.shared_experts."; the width comes from the table.
  Mlp(weights::ParameterRegistry& registry, const std::string& prefix);
  at::Tensor forward(const at::Tensor& x) const;  // [T, D] -> [T, D]

 private:
  ops::Weight& gate_up_;  // [2F, D], gate rows first
  ops::Weight& down_;     // [D, F]
};

}  // namespace fathom::model

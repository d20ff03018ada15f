// AdamW over every trained parameter of the registry (kernels/adamw.h holds the formula), and the global gradient norm.
#pragma once

#include "config/recipe.h"
#include "weights/parameter_registry.h"

namespace fathom::train {

struct GradNorm {
  double norm = 0;  // L2 over all trained parameters
  bool is_finite = true;
};

class Optimizer {
 public:
  // Makes the moments (zero) in `state_dtype`; bf16_pure keeps them in bfloat16, fp64 in double.
  Optimizer(weights::ParameterRegistry& registry, const config::OptimizerSection& section);

  GradNorm grad_norm() const;
  // Step t = `step` (1 for the first). Gradients are multiplied by grad_scale (clipping) as they are read. A parameter
  // that received no gradient is stepped with zeros. Norms and biases are not decayed.
  void step(double lr, int64_t step, double grad_scale);

 private:
  weights::ParameterRegistry& registry_;
  config::OptimizerSection section_;
};

}  // namespace fathom::train

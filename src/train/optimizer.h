// AdamW over every trained parameter of the registry (kernels/adamw.h holds the formula), and the global gradient norm.
// Of parameters that several ranks hold, each rank takes its share for the norm; where the state is sharded it steps its
// share, too, and the ranks exchange the new weights.
#pragma once

#include "config/recipe.h"
#include "train/share_buckets.h"
#include "weights/parameter_registry.h"

namespace fathom::train {

struct GradNorm {
  double norm = 0;  // L2 over all trained parameters
  bool is_finite = true;
};

class Optimizer {
 public:
  // Makes the moments (zero) in `state_dtype`; bf16_pure keeps them in bfloat16, fp64 in double. `holders`: needed where
  // other ranks hold the same parameters.
  Optimizer(weights::ParameterRegistry& registry, const config::OptimizerSection& section,
            const CopyHolders& holders = {});

  GradNorm grad_norm() const;  // of the summed gradients, and the same bits on every rank
  // Step t = `step` (1 for the first). Gradients are multiplied by grad_scale (clipping) as they are read. A parameter
  // that received no gradient is stepped with zeros. Norms and biases are not decayed.
  void step(double lr, int64_t step, double grad_scale);

 private:
  weights::ParameterRegistry& registry_;
  config::OptimizerSection section_;
  CopyHolders holders_;
  std::vector<ShareBucket> exchanged_;  // after a step
};

}  // namespace fathom::train

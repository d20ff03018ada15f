// Where a NaN or Inf stands, for the message of a step that was not finite (NUM-10).
#pragma once

#include <string>

#include "parallel/communicator.h"
#include "weights/parameter_registry.h"

namespace fathom::train {

// "weight model.layers.3.mlp.gate.weight holds inf", else the first gradient that is not finite, in the order of the
// layers; "no weight or gradient is; the loss itself overflowed" if neither. Each rank looks into its share of the
// gradients; all of `ranks` get the same answer.
std::string describe_nonfinite(const weights::ParameterRegistry& registry, parallel::Communicator& ranks);

}  // namespace fathom::train

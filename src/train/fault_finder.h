// Where a NaN or Inf stands, for the message of a step that was not finite (NUM-10).
#pragma once

#include <string>

#include "weights/parameter_registry.h"

namespace fathom::train {

// "weight model.layers.3.mlp.gate.weight holds inf", else the first gradient that is not finite, in the order of the
// layers; "no weight or gradient is; the loss itself overflowed" if neither.
std::string describe_nonfinite(const weights::ParameterRegistry& registry);

}  // namespace fathom::train

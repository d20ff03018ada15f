// What data-parallel ranks add up after the last micro-batch of a step.
#pragma once

#include <vector>

#include "model/moe.h"
#include "parallel/communicator.h"
#include "weights/parameter_registry.h"

namespace fathom::train {

// main_grad of every trained parameter becomes the sum over the ranks: the losses' factors are global already
// (step_batch.h), so nothing is divided. A parameter that received nothing on one rank counts as zeros there.
void sum_gradients(weights::ParameterRegistry& registry, parallel::Communicator& data_ranks);

// Each layer's expert loads become those of all ranks.
void sum_loads(const std::vector<model::Moe*>& layers, parallel::Communicator& data_ranks);

}  // namespace fathom::train

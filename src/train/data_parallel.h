// What ranks add up after the last micro-batch of a step.
#pragma once

#include <vector>

#include "model/moe.h"
#include "parallel/world.h"
#include "train/balance.h"

namespace fathom::train {

// The expert loads of this rank's layers become those of all ranks; returned are those of all stages' layers.
std::vector<LayerCounts> sum_loads(const std::vector<model::Moe*>& layers, const config::ModelConfig& model,
                                   parallel::World& world);

}  // namespace fathom::train

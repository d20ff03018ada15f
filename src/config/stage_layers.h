// How many layers each pipeline stage holds.
#pragma once

#include <cstdint>
#include <vector>

#include "config/recipe.h"

namespace fathom::config {

// [parallel.pipeline]. The layers in order, the MTP modules among them at the end. The even split gives each stage
// layers / stages, and one more to the first layers % stages of them; parallel.layer_offset is added to that. A stage
// may come out at 0: it then holds the embedding or the head only. check_recipe refuses stages below 0.
std::vector<int64_t> stage_layers(const ModelConfig& model, const ParallelSection& parallel);

}  // namespace fathom::config

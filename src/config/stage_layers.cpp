#include "config/stage_layers.h"

namespace fathom::config {

std::vector<int64_t> stage_layers(const ModelConfig& model, const ParallelSection& parallel) {
  const int64_t layers = model.num_layers_with_mtp(), stages = parallel.pipeline;
  std::vector<int64_t> split;
  for (int64_t stage = 0; stage < stages; ++stage) {
    const auto index = static_cast<size_t>(stage);
    const int64_t offset = index < parallel.layer_offset.size() ? parallel.layer_offset[index] : 0;
    split.push_back(layers / stages + (stage < layers % stages ? 1 : 0) + offset);
  }
  return split;
}

}  // namespace fathom::config

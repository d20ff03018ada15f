#include "train/data_parallel.h"

#include <algorithm>
#include <span>
#include <stdexcept>

namespace fathom::train {

std::vector<LayerCounts> sum_loads(const std::vector<model::Moe*>& layers, const config::ModelConfig& model,
                                   parallel::World& world) {
  const auto experts = static_cast<size_t>(model.n_routed_experts);
  std::vector<LayerCounts> result;
  for (int64_t layer = 0; layer < model.num_layers_with_mtp(); ++layer)
    if (model.is_moe_layer(layer)) result.push_back({layer, {}});
  std::vector<int64_t> counts(result.size() * experts);  // zeros for other stages' layers
  const auto of_layer = [&](int64_t layer) {
    for (size_t i = 0; i < result.size(); ++i)
      if (result[i].layer == layer) return std::span(counts).subspan(i * experts, experts);
    throw std::logic_error("not a layer of experts");
  };
  for (const model::Moe* moe : layers) std::ranges::copy(moe->load(), of_layer(moe->layer()).begin());
  world.along(parallel::Dimension::stage).all_reduce(std::span(counts));
  for (model::Moe* moe : layers) std::ranges::copy(of_layer(moe->layer()), moe->load().begin());
  world.along(parallel::Dimension::pipeline).all_reduce(std::span(counts));
  for (LayerCounts& layer : result) {
    const auto tokens = of_layer(layer.layer);
    layer.tokens.assign(tokens.begin(), tokens.end());
  }
  return result;
}

}  // namespace fathom::train

#include "train/data_parallel.h"

#include <span>

namespace fathom::train {

void sum_gradients(weights::ParameterRegistry& registry, parallel::Communicator& data_ranks) {
  if (data_ranks.size() == 1) return;
  for (weights::Parameter& parameter : registry.parameters())
    if (parameter.is_trained()) data_ranks.all_reduce(parameter.grad_for_adding());
}

void sum_loads(const std::vector<model::Moe*>& layers, parallel::Communicator& data_ranks) {
  for (model::Moe* moe : layers) data_ranks.all_reduce(std::span(moe->load()));
}

}  // namespace fathom::train

// A tiny model that is ready to be trained: registry, initial values, gradients; and windows of tokens for
// it.
#pragma once

#include <memory>
#include <vector>

#include "base/random.h"
#include "model/deepseek.h"
#include "model/micro_batch.h"
#include "support/tiny_registry.h"

namespace fathom::test {

struct TinyTraining {
  explicit TinyTraining(config::ModelConfig config, config::Precision precision = config::Precision::fp32,
                        const weights::Sharding& sharding = {})
      : registry(config, precision, c10::kCPU, true, sharding), model(registry) {
    registry.initialize(5);
    registry.allocate_grads();
    // Not the zeros of the start: the biases take part in the choice.
    for (weights::Parameter& p : registry.parameters()) {
      if (!p.is_router_bias) continue;
      for (int64_t e = 0; e < p.numel(); ++e)
        p.value.view({-1})[e] = 0.02 * static_cast<double>((e * 7) % 5) - 0.04;
    }
  }
  weights::Parameter& parameter(const std::string& hf_name) { return *registry.find(hf_name).first; }

  weights::ParameterRegistry registry;
  model::DeepseekModel model;
};

// Weights large enough that every part of the model matters.
inline config::ModelConfig lively_model() {
  config::ModelConfig config = tiny_model();
  config.initializer_range = 0.2;
  return config;
}

inline std::vector<model::Window> some_windows(int64_t count, int64_t seq_length, int64_t vocab) {
  std::vector<model::Window> windows(static_cast<size_t>(count));
  for (size_t w = 0; w < windows.size(); ++w)
    for (int64_t i = 0; i <= seq_length; ++i)
      windows[w].tokens.push_back(
          static_cast<int32_t>(uniform(w, static_cast<uint64_t>(i)) * static_cast<double>(vocab)));
  return windows;
}

}  // namespace fathom::test

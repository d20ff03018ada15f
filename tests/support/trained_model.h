// The tiny trained model of tests/golden/trained, texts in its language, and grids.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>

#include <filesystem>
#include <random>
#include <vector>

#include "eval/perplexity.h"
#include "model/micro_batch.h"
#include "quantize/calibrate.h"
#include "support/golden.h"
#include "support/scratch.h"
#include "weights/load_weights.h"

namespace fathom::test {

// Documents as tests/golden/make_trained.py writes them: each token mostly follows from the one before.
inline std::vector<model::Window> trained_language(int64_t windows, uint64_t seed, int64_t length = 40) {
  constexpr int32_t kVocab = 96;
  std::mt19937_64 draw(seed);
  const auto any = [&] { return static_cast<int32_t>(2 + draw() % (kVocab - 2)); };
  std::vector<model::Window> result(static_cast<size_t>(windows));
  int32_t token = any();
  for (model::Window& window : result)
    for (int64_t i = 0; i <= length; ++i) {
      window.tokens.push_back(token);
      token = draw() % 10 == 0 ? any() : 2 + (token * 5 + 3) % (kVocab - 2);
    }
  return result;
}

inline quantize::Grid int_grid(int bits, int64_t group_size) {
  const int highest = (1 << (bits - 1)) - 1;
  return {-highest - 1, highest, group_size, [highest](float largest) {
            return largest > 0 ? largest / (static_cast<float>(highest) + 0.5f) : 1.0f;
          }};
}

// Matrices of attention and MLPs; router, norms, embeddings and head stay.
inline bool is_quantised(const config::TensorSpec& spec) {
  using config::TensorRole;
  return spec.shape.size() == 2 &&
         (spec.role == TensorRole::attention || spec.role == TensorRole::dense_mlp ||
          spec.role == TensorRole::routed_expert || spec.role == TensorRole::shared_expert);
}

// A whole model in memory.
struct WholeModel {
  explicit WholeModel(const std::filesystem::path& directory)
      : config(config::read_model_config(directory)),
        registry(config, config::Precision::fp32, c10::Device(c10::kCPU), false),
        model(registry) {
    weights::load_weights(registry, directory);
  }
  double perplexity(const std::vector<model::Window>& windows) {
    return eval::perplexity_of_windows(model, static_cast<int64_t>(windows.size()),
                                       [&](int64_t i) { return windows[static_cast<size_t>(i)]; })
        .perplexity();
  }
  at::Tensor values(const std::string& name) {
    const auto [parameter, piece] = registry.find(name);
    return parameter->piece_of(parameter->value, *piece);
  }
  config::ModelConfig config;
  weights::ParameterRegistry registry;
  model::DeepseekModel model;
};

// Mean over tokens of KL(source || other), natural log: what other weights change of the predictions. On a model this
// small, whose perplexity is near that of its language, it tells what perplexity drowns in noise.
inline double divergence(WholeModel& source, WholeModel& other, const std::vector<model::Window>& windows) {
  const at::NoGradGuard no_grad;
  const model::MicroBatch batch = model::make_micro_batch(windows, 0);
  const auto log_probabilities = [&](model::DeepseekModel& model) {
    return at::log_softmax(model.logits(model.hidden(batch)).to(at::kDouble), -1);
  };
  const at::Tensor p = log_probabilities(source.model), q = log_probabilities(other.model);
  return ((p - q) * p.exp()).sum(-1).mean().item<double>();
}

}  // namespace fathom::test

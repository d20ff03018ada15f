// A registry over every tensor of a tiny model (two MTP layers, stacked experts), filled with awkward
// numbers.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <bit>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/random.h"
#include "config/model_config.h"
#include "weights/parameter_registry.h"

namespace fathom::test {

inline config::ModelConfig tiny_model(int64_t hidden = 24, int64_t vocab = 37) {
  Json json = Json::parse(R"({
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
    "intermediate_size": 20, "moe_intermediate_size": 9, "num_hidden_layers": 3, "num_nextn_predict_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 10, "kv_lora_rank": 7,
    "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5, "n_routed_experts": 4, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true, "routed_scaling_factor": 2.5,
    "rms_norm_eps": 1e-6, "rope_theta": 10000, "rope_scaling": null, "max_position_embeddings": 128,
    "hidden_act": "silu", "initializer_range": 0.006, "tie_word_embeddings": false, "attention_bias": false,
    "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16"})");
  json["hidden_size"] = hidden;
  json["vocab_size"] = vocab;
  return config::parse_model_config(json, "tiny");
}

// Experts of a layer are stacked in one parameter, as the model does; everything else is a tensor by itself.
inline std::unique_ptr<weights::ParameterRegistry> tiny_registry(const config::ModelConfig& model,
                                                                 config::Precision precision,
                                                                 const weights::Sharding& sharding = {}) {
  auto registry =
      std::make_unique<weights::ParameterRegistry>(model, precision, c10::Device(c10::kCPU), true, sharding);
  std::map<std::pair<int64_t, std::string>, std::vector<const config::TensorSpec*>> stacks;
  for (const config::TensorSpec& spec : registry->table().tensors()) {
    if (spec.role == config::TensorRole::mtp_embedding) {
      registry->add_tied_copy(spec.name, "model.embed_tokens.weight");
    } else if (spec.role == config::TensorRole::mtp_head) {
      registry->add_tied_copy(spec.name, "lm_head.weight");
    } else if (spec.role == config::TensorRole::routed_expert) {
      const std::string projection = spec.name.substr(spec.name.find('.', spec.name.find("experts.") + 8));
      stacks[{spec.layer, projection}].push_back(&spec);
    } else {
      registry->add(spec.name);
    }
  }
  for (const auto& [key, specs] : stacks) {
    std::vector<std::string> names;
    for (const config::TensorSpec* spec : specs) names.push_back(spec->name);
    std::vector<int64_t> shape = specs.front()->shape;
    shape.insert(shape.begin(), static_cast<int64_t>(specs.size()));
    registry->add("experts" + key.second, shape, names);
  }
  registry->check_complete();
  return registry;
}

inline void add_moments(weights::ParameterRegistry& registry, at::ScalarType type) {
  for (weights::Parameter& parameter : registry.parameters()) {
    if (parameter.is_router_bias) continue;
    parameter.exp_avg = at::full(parameter.state_shape(), 0, at::TensorOptions().dtype(type));
    parameter.exp_avg_sq = at::full(parameter.state_shape(), 0, at::TensorOptions().dtype(type));
  }
}

// Every tensor of the registry, in a fixed order.
inline std::vector<at::Tensor> all_tensors(const weights::ParameterRegistry& registry) {
  std::vector<at::Tensor> tensors;
  for (const weights::Parameter& parameter : registry.parameters())
    for (const at::Tensor& tensor :
         {parameter.value, parameter.low_bits, parameter.exp_avg, parameter.exp_avg_sq})
      if (tensor.defined()) tensors.push_back(tensor);
  return tensors;
}

// Masters from (seed, name, index), with halves, denormals, -0, the largest numbers and infinity among them;
// moments and the values of other precisions likewise.
inline void fill_registry(weights::ParameterRegistry& registry, uint64_t seed) {
  static constexpr uint32_t kAwkward[] = {0x3f808000, 0x3f7f8000, 0x00000001, 0x80000000, 0x7f7f7fff,
                                          0xff7fffff, 0x7f800000, 0x3f80ffff, 0x00008000, 0xbf817fff};
  for (weights::Parameter& parameter : registry.parameters()) {
    for (const weights::Piece& piece : parameter.pieces) {
      std::vector<float> values(static_cast<size_t>(piece.numel()));
      fill_normal(stream_key(seed, piece.spec->name), 0, piece.numel(), 0, 1, values.data());
      for (size_t i = 0; i < std::min(values.size(), std::size(kAwkward)); ++i)
        values[i] = std::bit_cast<float>(kAwkward[(i + seed) % std::size(kAwkward)]);
      registry.set_piece(parameter, piece, values.data());
      if (parameter.value.scalar_type() == at::kDouble)
        parameter.piece_of(parameter.value, piece).mul_(1.0 + 1e-12 * static_cast<double>(seed));
    }
    for (at::Tensor* moment : {&parameter.exp_avg, &parameter.exp_avg_sq}) {
      if (!moment->defined()) continue;
      std::vector<float> values(static_cast<size_t>(parameter.numel()));
      fill_normal(stream_key(seed, parameter.label + (moment == &parameter.exp_avg ? "m" : "v")), 0,
                  parameter.numel(), 0, 1e-3f, values.data());
      for (int64_t i = 0; i < parameter.state.count(); ++i) {
        const float value = values[static_cast<size_t>(parameter.state.begin + i)];
        if (moment->scalar_type() == at::kFloat) moment->mutable_data_ptr<float>()[i] = value;
        if (moment->scalar_type() == at::kDouble) moment->mutable_data_ptr<double>()[i] = value / 3.0;
        if (moment->scalar_type() == at::kBFloat16)
          moment->mutable_data_ptr<at::BFloat16>()[i] = static_cast<at::BFloat16>(value);
      }
    }
  }
}

// Ones everywhere: what no loaded tensor looks like.
inline void poison_registry(weights::ParameterRegistry& registry) {
  for (at::Tensor tensor : all_tensors(registry)) tensor.fill_(1);
}

// The bytes of every tensor of the registry; equal strings are equal bits.
inline std::string bits_of(const weights::ParameterRegistry& registry) {
  std::string bits;
  for (const at::Tensor& tensor : all_tensors(registry))
    bits.append(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
  return bits;
}

}  // namespace fathom::test

#include "checkpoint/known_tensors.h"

#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "checkpoint/quantized_ints.h"
#include "checkpoint/stored_values.h"

namespace fathom::checkpoint {
namespace {

// "model.layers.12.mlp..." -> 12; -1 outside the layers.
int64_t layer_of(const std::string& name) {
  constexpr std::string_view kPrefix = "model.layers.";
  return name.starts_with(kPrefix) ? std::strtoll(name.c_str() + kPrefix.size(), nullptr, 10) : -1;
}

}  // namespace

int64_t refuse_unknown_tensors(const formats::ShardedReader& reader, const config::TensorTable& table,
                               const config::ModelConfig& model, const std::string& where) {
  if (model.quantization && !model.quantization->unsupported.empty())
    throw CheckpointError(
        "{}: its weights are quantised with {}, which is not read here; bf16, fp16, fp32, "
        "DeepSeek's fp8, and compressed-tensors' symmetric int8 and packed int4 are",
        where, model.quantization->unsupported);
  int64_t ignored_mtp = 0;
  for (const formats::ShardedReader::Location& location : reader.tensors()) {
    const std::string& stored = location.entry->name;
    std::string name = stored;
    if (name.ends_with("rotary_emb.inv_freq")) continue;
    if (name.ends_with(kScaleSuffix)) name.resize(name.size() - std::strlen(kScaleSuffix));
    if (const std::optional<std::string> weight = weight_of_part(name)) name = *weight;
    if (table.find(name)) continue;
    if (layer_of(name) < model.num_hidden_layers)
      throw CheckpointError(
          "{}: tensor {} is not part of the model that config.json describes ({} layers, {} experts)", where,
          stored, model.num_hidden_layers, model.n_routed_experts);
    ++ignored_mtp;
  }
  return ignored_mtp;
}

}  // namespace fathom::checkpoint

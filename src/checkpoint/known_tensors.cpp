#include "checkpoint/known_tensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "base/log.h"
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

Known classify_tensor(const std::string& stored, const config::TensorTable& table,
                      const config::ModelConfig& model) {
  std::string name = stored;
  if (name.ends_with("rotary_emb.inv_freq")) return Known::of_no_use;
  if (name.ends_with(kScaleSuffix)) name.resize(name.size() - std::strlen(kScaleSuffix));
  if (const std::optional<std::string> weight = weight_of_part(name)) name = *weight;
  if (table.find(name)) return Known::model;
  return layer_of(name) < model.num_hidden_layers ? Known::no : Known::unasked_mtp;
}

int64_t refuse_unknown_tensors(const formats::ShardedReader& reader, const config::TensorTable& table,
                               const config::ModelConfig& model, const std::string& where) {
  if (model.quantization && !model.quantization->unsupported.empty())
    throw CheckpointError(
        "{}: its weights are quantised with {}, which is not read here; bf16, fp16, fp32, "
        "DeepSeek's fp8, and compressed-tensors' symmetric int8 and packed int4 are",
        where, model.quantization->unsupported);
  int64_t unasked_mtp = 0;
  for (const formats::ShardedReader::Location& location : reader.tensors()) {
    const Known known = classify_tensor(location.entry->name, table, model);
    if (known == Known::no)
      throw CheckpointError(
          "{}: tensor {} is not part of the model that config.json describes ({} layers, {} experts)", where,
          location.entry->name, model.num_hidden_layers, model.n_routed_experts);
    if (known == Known::unasked_mtp) ++unasked_mtp;
  }
  return unasked_mtp;
}

void mention_unlisted(const formats::ShardedReader& reader, const std::string& where) {
  if (reader.unlisted() > 0)
    log::warning("{}: {} tensors lie in its files but not in its index, and are left out", where,
                 reader.unlisted());
  if (const std::vector<std::string> files = reader.unlisted_files(); !files.empty())
    log::warning(
        "{}: {} {} not named by its index, and left out", where,
        fmt::join(files.begin(), files.begin() + std::min<std::ptrdiff_t>(3, std::ssize(files)), ", "),
        files.size() == 1  ? "is"
        : files.size() > 3 ? fmt::format("and {} more files are", files.size() - 3)
                           : "are");
}

const char* copied_from(const config::TensorSpec& spec) {
  switch (spec.role) {
    case config::TensorRole::mtp_embedding:
      return "model.embed_tokens.weight";
    case config::TensorRole::mtp_head:
      return "lm_head.weight";
    default:
      return nullptr;
  }
}

CheckpointError missing_tensor(const std::string& where, const std::string& name,
                               const config::TensorSpec& spec, const config::ModelConfig& model,
                               const char* mtp_remedy) {
  const bool is_mtp = spec.layer >= model.num_hidden_layers;
  return CheckpointError("{}: tensor {} is missing{}", where, name,
                         is_mtp ? fmt::format(" (it is of an MTP layer: {})", mtp_remedy) : "");
}

void check_shape(const std::string& file, const std::string& name, const std::vector<int64_t>& stored,
                 const std::vector<int64_t>& implied) {
  if (stored != implied)
    throw CheckpointError("{}: tensor {} has shape [{}], config.json implies [{}]", file, name,
                          fmt::join(stored, ", "), fmt::join(implied, ", "));
}

}  // namespace fathom::checkpoint

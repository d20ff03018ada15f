#include "weights/load_weights.h"

#include <fmt/ranges.h>

#include <cstring>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "checkpoint/stored_values.h"

namespace fathom::weights {
namespace {

using checkpoint::kScaleSuffix;
using formats::ShardedReader;

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

bool is_buffer_to_skip(const std::string& name) { return name.ends_with("rotary_emb.inv_freq"); }

// "model.layers.12.mlp..." -> 12; -1 outside the layers.
int64_t layer_of(const std::string& name) {
  constexpr std::string_view kPrefix = "model.layers.";
  if (!name.starts_with(kPrefix)) return -1;
  return std::strtoll(name.c_str() + kPrefix.size(), nullptr, 10);
}

// Names the first tensor that neither the config nor a known convention explains.
void refuse_unknown(const ParameterRegistry& registry, const ShardedReader& reader,
                    const std::string& directory) {
  int64_t ignored_mtp = 0;
  for (const ShardedReader::Location& location : reader.tensors()) {
    std::string name = location.entry->name;
    if (is_buffer_to_skip(name)) continue;
    if (name.ends_with(kScaleSuffix)) name.resize(name.size() - std::strlen(kScaleSuffix));
    if (registry.table().find(name)) continue;
    if (layer_of(name) >= registry.model().num_hidden_layers) {
      ++ignored_mtp;
      continue;
    }
    throw CheckpointError(
        "{}: tensor {} is not part of the model that config.json describes ({} layers, {} experts)",
        directory, location.entry->name, registry.model().num_hidden_layers,
        registry.model().n_routed_experts);
  }
  if (ignored_mtp > 0)
    log::info("{}: MTP block found ({} tensors), ignored: it is not used here", directory, ignored_mtp);
}

}  // namespace

void load_weights(ParameterRegistry& registry, const std::filesystem::path& directory) {
  const ShardedReader reader(directory);
  refuse_unknown(registry, reader, directory.string());
  Progress progress("loading " + directory.filename().string(), reader.total_bytes(), "B");
  std::vector<float> buffer;
  for (Parameter& parameter : registry.parameters()) {
    for (const Piece& piece : parameter.pieces) {
      const std::string& name = piece.spec->name;
      const ShardedReader::Location* location = reader.find(name);
      if (!location) {
        const bool is_mtp = piece.spec->layer >= registry.model().num_hidden_layers;
        throw CheckpointError("{}: tensor {} is missing{}", directory.string(), name,
                              is_mtp ? " (train without it: --set model.num_nextn_predict_layers=0)" : "");
      }
      if (location->entry->shape != piece.spec->shape)
        throw CheckpointError("{}: tensor {} has shape {}, config.json implies {}",
                              location->file->path().string(), name, shape_text(location->entry->shape),
                              shape_text(piece.spec->shape));
      FATHOM_ASSERT(piece.is_whole());
      buffer.resize(static_cast<size_t>(piece.numel()));
      checkpoint::read_as_float(reader, name, 0, piece.numel(), buffer.data());
      registry.set_piece(parameter, piece, buffer.data());
      progress.advance(location->entry->bytes);
    }
  }
  if (reader.total_bytes() > (uint64_t{1} << 30)) progress.finish();
}

}  // namespace fathom::weights

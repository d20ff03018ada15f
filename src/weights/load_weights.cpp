#include "weights/load_weights.h"

#include <fmt/ranges.h>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "checkpoint/known_tensors.h"
#include "checkpoint/stored_values.h"

namespace fathom::weights {
namespace {

using formats::ShardedReader;

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace

void load_parameters(ParameterRegistry& registry, const ShardedReader& reader,
                     const std::filesystem::path& directory, const std::function<void(uint64_t)>& advance) {
  std::vector<float> buffer;
  for (Parameter& parameter : registry.parameters()) {
    for (const Piece& piece : parameter.pieces) {
      const std::string& name = piece.spec->name;
      const std::optional<checkpoint::StoredTensor> stored = checkpoint::find_stored(reader, name);
      if (!stored) {
        const bool is_mtp = piece.spec->layer >= registry.model().num_hidden_layers;
        throw CheckpointError("{}: tensor {} is missing{}", directory.string(), name,
                              is_mtp ? " (train without it: --set model.num_nextn_predict_layers=0)" : "");
      }
      if (stored->shape != piece.spec->shape)
        throw CheckpointError("{}: tensor {} has shape {}, config.json implies {}", stored->file, name,
                              shape_text(stored->shape), shape_text(piece.spec->shape));
      FATHOM_ASSERT(piece.is_whole());
      buffer.resize(static_cast<size_t>(piece.numel()));
      checkpoint::read_as_float(reader, name, 0, piece.numel(), buffer.data());
      registry.set_piece(parameter, piece, buffer.data());
      if (advance) advance(stored->bytes);
    }
  }
}

void load_weights(ParameterRegistry& registry, const std::filesystem::path& directory) {
  const ShardedReader reader(directory);
  const int64_t ignored_mtp =
      checkpoint::refuse_unknown_tensors(reader, registry.table(), registry.model(), directory.string());
  if (ignored_mtp > 0)
    log::info("{}: MTP block found ({} tensors), ignored: it is not used here", directory.string(),
              ignored_mtp);
  Progress progress("loading " + directory.filename().string(), reader.total_bytes(), "B");
  load_parameters(registry, reader, directory, [&](uint64_t bytes) { progress.advance(bytes); });
  if (reader.total_bytes() > (uint64_t{1} << 30)) progress.finish();
}

}  // namespace fathom::weights

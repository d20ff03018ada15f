#include "weights/load_weights.h"

#include <fmt/ranges.h>
#include <cstring>

#include "base/log.h"
#include "base/progress.h"
#include "checkpoint/known_tensors.h"
#include "checkpoint/stored_values.h"

namespace fathom::weights {
namespace {

using formats::ShardedReader;

// The copies of embedding and head in the MTP layers are not parameters: the trunk's are used in their place.
void compare_copies(const ShardedReader& reader, const ParameterRegistry& registry,
                    const std::string& where) {
  std::vector<std::string> missing;
  for (const config::TensorSpec& spec : registry.table().tensors()) {
    const char* source = checkpoint::copied_from(spec);
    if (!source) continue;
    const ShardedReader::Location *copy = reader.find(spec.name), *original = reader.find(source);
    if (!checkpoint::find_stored(reader, spec.name)) missing.push_back(spec.name);
    if (!copy || !original) continue;
    const auto a = copy->bytes(), b = original->bytes();
    if (a.size() != b.size() || std::memcmp(a.data(), b.data(), a.size()) != 0)
      log::warning("{}: {} differs from {}, which is used in its place", where, spec.name, source);
  }
  if (!missing.empty()) log::info("{}: {} not there: tied to the trunk's", where, fmt::join(missing, ", "));
}

}  // namespace

void load_parameters(ParameterRegistry& registry, const ShardedReader& reader,
                     const std::filesystem::path& directory, const std::function<void(uint64_t)>& advance) {
  std::vector<float> buffer;
  for (Parameter& parameter : registry.parameters()) {
    for (const Piece& piece : parameter.pieces) {
      const std::string& name = piece.spec->name;
      const std::optional<checkpoint::StoredTensor> stored = checkpoint::find_stored(reader, name);
      if (!stored)
        throw checkpoint::missing_tensor(directory.string(), name, *piece.spec, registry.model(),
                                         "--set model.num_nextn_predict_layers=0 trains without");
      checkpoint::check_shape(stored->file, name, stored->shape, piece.spec->shape);
      buffer.resize(static_cast<size_t>(piece.numel()));
      piece.for_each_run([&](int64_t global, int64_t local, int64_t count) {
        checkpoint::read_as_float(reader, name, global, count, buffer.data() + local);
      });
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
  checkpoint::mention_unlisted(reader, directory.string());
  compare_copies(reader, registry, directory.string());
  Progress progress("loading " + directory.filename().string(), reader.total_bytes(), "B");
  load_parameters(registry, reader, directory, [&](uint64_t bytes) { progress.advance(bytes); });
  if (reader.total_bytes() > (uint64_t{1} << 30)) progress.finish();
}

}  // namespace fathom::weights

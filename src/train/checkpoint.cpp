#include "train/checkpoint.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "formats/checkpoint_manifest.h"
#include "train/checkpoint_files.h"
#include "weights/spread_weights.h"
#include "weights/train_state.h"

namespace fathom::train {

std::string checkpoint_name(int64_t step) { return fmt::format("{}{:08}", checkpoint::kStepPrefix, step); }

bool has_state_tensors(const fs::path& directory) {
  for (const auto& [name, unused] : formats::read_manifest(directory).files)
    if (is_state_tensor_file(name)) return true;
  return false;
}

bool is_state_tensor_file(const std::string& name) {
  return name.starts_with(std::string(weights::kTrainStateFolder) + "/") && name.ends_with(".safetensors");
}

std::optional<std::string> find_checkpoint_fault(const fs::path& directory, int64_t step,
                                                 formats::Verify what) {
  if (auto fault = formats::find_fault(directory, what)) return fault;
  const formats::CheckpointManifest manifest = formats::read_manifest(directory);
  if (manifest.step != step)
    return fmt::format("its manifest is of step {}: the directory was renamed or mixed up", manifest.step);
  for (const char* name : {"config.json", kStateName})
    if (!manifest.files.contains(name)) return fmt::format("its manifest lists no {}", name);
  return std::nullopt;
}

std::optional<FoundCheckpoint> find_latest_good(const fs::path& output_dir) {
  const fs::path folder = output_dir / kCheckpointFolder;
  std::string faults;
  for (const auto& [step, directory] : list_checkpoints(folder)) {
    const auto fault = find_checkpoint_fault(directory, step, formats::Verify::checksums);
    if (!fault) return FoundCheckpoint{directory, step, has_state_tensors(directory)};
    log::warning("checkpoint {} cannot be used: {}; looking for an older one", directory.string(), *fault);
    faults += fmt::format("\n  {}: {}", directory.filename().string(), *fault);
  }
  if (faults.empty()) return std::nullopt;
  throw CheckpointError(
      "{}: there are checkpoints, but none is good:{}\nTo start afresh, move this directory away or give "
      "another "
      "output_dir; to start from weights elsewhere, set checkpoint.load there",
      folder.string(), faults);
}

LoadedCheckpoint load_checkpoint(const fs::path& directory, weights::ParameterRegistry& registry) {
  LoadedCheckpoint result;
  try {
    result.state = read_json_file(directory / kStateName);
  } catch (const ConfigError& e) {
    throw CheckpointError("{}", e.what());
  }
  const weights::LoadedState loaded = weights::load_state(registry, directory);
  result.has_masters = loaded.has_masters;
  result.has_moments = loaded.has_moments;
  return result;
}

uint64_t checkpoint_bytes(weights::ParameterRegistry& registry, bool with_optimizer) {
  uint64_t bytes = weights::weight_bytes(registry);
  if (with_optimizer)
    for (const checkpoint::SavedFile& file : weights::plan_train_state(registry)) bytes += file.bytes();
  return bytes;
}

}  // namespace fathom::train

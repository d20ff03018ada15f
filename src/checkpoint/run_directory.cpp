#include "checkpoint/run_directory.h"

#include <algorithm>
#include <system_error>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "formats/checkpoint_manifest.h"
#include "formats/sharded_safetensors.h"

namespace fathom::checkpoint {
namespace {

bool is_checkpoint(const fs::path& directory) {
  for (const char* name : {"config.json", formats::kIndexFileName, formats::kSingleFileName})
    if (fs::exists(directory / name)) return true;
  return false;
}

}  // namespace

std::optional<int64_t> step_of_name(const std::string& name) {
  const std::string_view digits = std::string_view(name).substr(std::min(name.size(), kStepPrefix.size()));
  if (!name.starts_with(kStepPrefix) || digits.empty() || digits.size() > 18 ||
      digits.find_first_not_of("0123456789") != std::string_view::npos)
    return std::nullopt;
  return std::stoll(std::string(digits));
}

std::vector<std::pair<int64_t, fs::path>> list_checkpoints(const fs::path& folder) {
  std::vector<std::pair<int64_t, fs::path>> found;
  std::error_code error;
  for (fs::directory_iterator item(folder, error), end; !error && item != end; item.increment(error))
    if (const auto step = step_of_name(item->path().filename().string()); step && item->is_directory())
      found.emplace_back(*step, item->path());
  if (error && error != std::errc::no_such_file_or_directory)
    throw FileError("cannot list {}: {}", folder.string(), error.message());
  std::sort(found.rbegin(), found.rend());
  return found;
}

fs::path resolve_checkpoint(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found)
    throw FileError("{}: there is no such file or directory", path.string());
  if (status.type() == fs::file_type::none)
    throw FileError("cannot read {}: {}", path.string(), error.message());
  if (!fs::is_directory(status) || is_checkpoint(path)) return path;
  const bool is_run = fs::is_directory(path / kCheckpointFolder);
  const fs::path folder = is_run ? path / kCheckpointFolder : path;
  const auto checkpoints = list_checkpoints(folder);
  if (checkpoints.empty() && !is_run) return path;
  std::string faults;
  for (const auto& [step, directory] : checkpoints) {
    const auto fault = formats::find_fault(directory, formats::Verify::sizes);
    if (!fault) {
      log::info("{}: its newest good checkpoint is {}", path.string(), directory.filename().string());
      return directory;
    }
    log::warning("checkpoint {} is left out: {}", directory.string(), *fault);
    faults += fmt::format("{}{}: {}", faults.empty() ? "" : "; ", directory.filename().string(), *fault);
  }
  if (faults.empty()) throw CheckpointError("{}: there is no checkpoint in this run yet", folder.string());
  throw CheckpointError("{}: none of its checkpoints is whole ({}); name one to read it all the same",
                        folder.string(), faults);
}

}  // namespace fathom::checkpoint

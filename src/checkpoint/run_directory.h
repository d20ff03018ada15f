// A run's directory OUT/checkpoints/step_00001000/, as those see it that only want a checkpoint to read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fathom::checkpoint {

inline constexpr const char* kCheckpointFolder = "checkpoints";
inline constexpr std::string_view kStepPrefix = "step_";

std::optional<int64_t> step_of_name(const std::string& name);  // of "step_00001000"
// Every step_* directory, newest first; nothing where `folder` does not exist. Throws FileError.
std::vector<std::pair<int64_t, std::filesystem::path>> list_checkpoints(const std::filesystem::path& folder);

// What a command that takes a checkpoint reads: of a run's directory, or its checkpoints/, the newest checkpoint whose
// files are there in full size by its manifest (a notice says which); any other path as it is. Throws FileError:
// nothing there; CheckpointError: a run without a checkpoint, or without a good one (each one's fault is named).
std::filesystem::path resolve_checkpoint(const std::filesystem::path& path);

}  // namespace fathom::checkpoint

// What lies in OUT/checkpoints, as the parts of the checkpoint code see it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "checkpoint/run_directory.h"
#include "formats/checkpoint_manifest.h"

namespace fathom::train {

// In the name of everything that is being written or removed; what a killed run leaves is known by it.
inline constexpr std::string_view kTemporaryMark = ".tmp-";

using checkpoint::list_checkpoints;
bool is_state_tensor_file(const std::string& name);  // train_state/*.safetensors
bool has_state_tensors(const std::filesystem::path& directory);
// As formats::find_fault, and that the manifest is one of this step with what a resume needs.
std::optional<std::string> find_checkpoint_fault(const std::filesystem::path& directory, int64_t step,
                                                 formats::Verify what);

// Removes what killed runs left: *.tmp-* in the folder and in its step_* directories.
void remove_leftovers(const std::filesystem::path& folder);
// Puts `temporary` under its final name in one step, also where a directory of that name exists (which goes).
void put_in_place(const std::filesystem::path& temporary, const std::filesystem::path& final_path);
// Renames, then deletes, so that no half-deleted directory has a checkpoint's name.
void remove_checkpoint(const std::filesystem::path& directory);
// Takes the optimizer's tensors out of a checkpoint, its manifest first.
void drop_state_tensors(const std::filesystem::path& directory);

}  // namespace fathom::train

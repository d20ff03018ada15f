#include "train/checkpoint_files.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

namespace fathom::train {
namespace {

fs::path removal_name(const fs::path& directory) {
  return fmt::format("{}{}removed-{}", directory.string(), kTemporaryMark, ::getpid());
}

void remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) throw FileError("cannot remove {}: {}", path.string(), error.message());
}

void rename_path(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) throw FileError("cannot rename {} to {}: {}", from.string(), to.string(), error.message());
}

void remove_marked(const fs::path& folder, bool say) {
  std::vector<fs::path> leftovers;
  std::error_code error;
  for (fs::directory_iterator item(folder, error), end; !error && item != end; item.increment(error))
    if (item->path().filename().string().find(kTemporaryMark) != std::string::npos)
      leftovers.push_back(item->path());
  for (const fs::path& path : leftovers) {
    if (say) log::info("removing {}, which a killed run left unfinished", path.string());
    remove_tree(path);
  }
}

}  // namespace

void remove_leftovers(const fs::path& folder) {
  remove_marked(folder, true);
  for (const auto& [step, directory] : list_checkpoints(folder)) remove_marked(directory, false);
}

void put_in_place(const fs::path& temporary, const fs::path& final_path) {
  if (!fs::exists(final_path)) return rename_path(temporary, final_path);
  if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, final_path.c_str(), RENAME_EXCHANGE) == 0)
    return remove_tree(temporary);
  // A file system without exchange: for a moment there is none of this name.
  const fs::path old = removal_name(final_path);
  rename_path(final_path, old);
  rename_path(temporary, final_path);
  remove_tree(old);
}

void remove_checkpoint(const fs::path& directory) {
  const fs::path renamed = removal_name(directory);
  rename_path(directory, renamed);
  remove_tree(renamed);
}

void drop_state_tensors(const fs::path& directory) {
  formats::CheckpointManifest manifest = formats::read_manifest(directory);
  std::vector<std::string> dropped;
  for (const auto& [name, unused] : manifest.files)
    if (is_state_tensor_file(name)) dropped.push_back(name);
  if (dropped.empty()) return;
  for (const std::string& name : dropped) manifest.files.erase(name);
  formats::write_manifest(directory, manifest);
  sync_directory(directory);
  for (const std::string& name : dropped) remove_tree(directory / name);
}

}  // namespace fathom::train

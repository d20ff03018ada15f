#include "checkpoint/convert_journal.h"

#include <map>
#include <system_error>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

namespace fathom::checkpoint {
namespace {

constexpr const char* kJournalName = "convert.journal.json";

void remove_file(const fs::path& path) {
  std::error_code error;
  fs::remove(path, error);
  if (error) throw FileError("cannot remove {}: {}", path.string(), error.message());
}

}  // namespace

void refuse_other_checkpoint(const fs::path& directory) {
  if (!fs::exists(directory) || fs::exists(directory / kJournalName)) return;
  if (!fs::is_directory(directory))
    throw FileError("{}: a file with this name is in the way", directory.string());
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name == "config.json" || name == formats::kIndexFileName || name.ends_with(".safetensors"))
      throw CheckpointError("{} holds a checkpoint ({}) already: give another directory or remove it",
                            directory.string(), name);
  }
}

ConvertJournal::ConvertJournal(const fs::path& directory, Json plan, const std::vector<SavedFile>& files)
    : directory_(directory), path_(directory / kJournalName) {
  refuse_other_checkpoint(directory);
  make_directories(directory);
  lock_ = DirectoryLock(directory, "is writing a conversion here");
  plan["files"] = Json::array();
  for (const SavedFile& file : files) plan["files"].push_back(file.name);
  if (fs::exists(path_)) {
    const Json old = read_json_file(path_);
    remove_leftovers(old.value("files", Json::array()));
    if (old == plan) return;
    const bool is_other_source = old.value("source", Json()) != plan["source"];
    log::info("{}: an unfinished conversion lies here, but {} changed since: it starts anew",
              directory.string(), is_other_source ? "the source" : "the options");
    for (const Json& name : old.value("files", Json::array()))
      if (name.is_string()) remove_file(directory / fs::path(name.get<std::string>()).filename());
    remove_file(directory / formats::kIndexFileName);
    remove_file(directory / formats::kParameterMapName);
    remove_file(directory / "config.json");
  }
  write_text_file(path_, plan.dump(2) + "\n");
}

// Of a process that was killed: `<name>.tmp-<pid>` of files that it was writing.
void ConvertJournal::remove_leftovers(const Json& files) const {
  std::vector<std::string> prefixes;
  for (const Json& name : files)
    if (name.is_string()) prefixes.push_back(name.get<std::string>() + ".tmp-");
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(directory_))
    for (const std::string& prefix : prefixes)
      if (entry.path().filename().string().starts_with(prefix)) found.push_back(entry.path());
  for (const fs::path& path : found) remove_file(path);
}

bool ConvertJournal::is_written(const SavedFile& file) const {
  const fs::path path = directory_ / file.name;
  if (!fs::exists(path)) return false;
  const formats::SafetensorsFile written(path);
  if (written.tensors().size() != file.tensors.size()) return false;
  for (const SavedTensor& tensor : file.tensors) {
    const formats::TensorEntry* entry = written.find(tensor.declaration.name);
    if (!entry || entry->dtype != tensor.declaration.dtype || entry->shape != tensor.declaration.shape)
      return false;
  }
  return true;
}

void ConvertJournal::finish() {
  remove_file(path_);
  sync_directory(directory_);
}

}  // namespace fathom::checkpoint

#include "formats/sharded_safetensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/json.h"

namespace fathom::formats {
namespace {

bool stays_inside(const std::string& name) {
  const std::filesystem::path path(name);
  if (name.empty() || path.is_absolute() || name.find('\0') != std::string::npos) return false;
  return std::none_of(path.begin(), path.end(), [](const auto& part) { return part == ".."; });
}

SortedJson read_object(const std::filesystem::path& path) {
  try {
    SortedJson object = parse_sorted_json(MappedFile(path).text(), path.string());
    return object.is_object() ? object : SortedJson::object();
  } catch (const ConfigError& e) {
    throw CheckpointError("{}", e.what());
  }
}

std::map<std::string, std::string> file_names(const SortedJson& map, const std::filesystem::path& path,
                                              const char* key) {
  std::map<std::string, std::string> names;
  for (const auto& [name, file] : map.items()) {
    if (!file.is_string()) throw CheckpointError("{}: {}{} is no file name", path.string(), key, name);
    const std::string& text = file.get_ref<const std::string&>();
    if (!stays_inside(text))
      throw CheckpointError("{}: {}{} is \"{}\", which is no file of this directory", path.string(), key,
                            name, text);
    names.emplace(name, text);
  }
  return names;
}

Json as_object(const std::map<std::string, std::string>& map) {
  Json object = Json::object();
  auto& members = object.get_ref<Json::object_t&>();
  for (const auto& [name, file] : map) members.emplace_back(name, file);
  return object;
}

}  // namespace

SafetensorsIndex read_safetensors_index(const std::filesystem::path& path) {
  const SortedJson object = read_object(path);
  const auto map = object.find("weight_map");
  if (map == object.end() || !map->is_object())
    throw CheckpointError("{}: no \"weight_map\" object: this is no safetensors index", path.string());
  SafetensorsIndex index;
  index.weight_map = file_names(*map, path, "weight_map.");
  const auto metadata = object.find("metadata");
  if (metadata != object.end() && metadata->is_object()) {
    const auto size = metadata->find("total_size");
    if (size != metadata->end() && size->is_number_unsigned()) index.total_size = size->get<uint64_t>();
  }
  return index;
}

SafetensorsIndex read_parameter_map(const std::filesystem::path& path) {
  const SortedJson object = read_object(path);
  const auto map = object.find("weight_map");
  SafetensorsIndex index;
  if (map != object.end() && map->is_object())
    index.weight_map = file_names(*map, path, "weight_map.");
  else
    index.weight_map = file_names(object, path, "");
  return index;
}

void write_safetensors_index(const std::filesystem::path& path, const SafetensorsIndex& index) {
  Json object = Json::object();
  object["metadata"] = {{"total_size", index.total_size}};
  object["weight_map"] = as_object(index.weight_map);
  write_text_file(path, object.dump(2) + "\n");
}

void write_parameter_map(const std::filesystem::path& path, const SafetensorsIndex& index) {
  write_text_file(path, as_object(index.weight_map).dump(2) + "\n");
}

ShardedReader::ShardedReader(const std::filesystem::path& path) : path_(path) {
  std::filesystem::path index_path;
  if (std::filesystem::is_directory(path)) {
    index_path = path / kIndexFileName;
    if (!std::filesystem::exists(index_path)) {
      if (!std::filesystem::exists(path / kSingleFileName))
        throw CheckpointError("{}: neither {} nor {} is in this directory: is it a checkpoint?",
                              path.string(), kSingleFileName, kIndexFileName);
      add_files(path, {kSingleFileName}, nullptr);
      return;
    }
  } else if (path.extension() == ".json") {
    index_path = path;
  } else {
    add_files(path.parent_path(), {path.filename().string()}, nullptr);
    return;
  }
  add_index(index_path.parent_path(), read_safetensors_index(index_path));
}

ShardedReader::ShardedReader(const std::filesystem::path& directory, const SafetensorsIndex& index)
    : path_(directory) {
  add_index(directory, index);
}

void ShardedReader::add_index(const std::filesystem::path& directory, const SafetensorsIndex& index) {
  std::set<std::string> files;
  for (const auto& [tensor, file] : index.weight_map) files.insert(file);
  const std::vector<std::string> names(files.begin(), files.end());
  std::vector<std::string> missing;
  for (const std::string& name : names)
    if (!std::filesystem::exists(directory / name)) missing.push_back(name);
  if (!missing.empty()) {
    const size_t shown = std::min<size_t>(missing.size(), 5);
    throw CheckpointError(
        "{}: {} of {} files that its index names are missing: {}{}: fetch them", path_.string(),
        missing.size(), names.size(),
        fmt::join(missing.begin(), missing.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
        missing.size() > shown ? ", ..." : "");
  }
  add_files(directory, names, &index);
  for (const auto& [tensor, file] : index.weight_map)
    if (!find(tensor))
      throw CheckpointError("{}: tensor \"{}\" should be in {} by the index, but is not", path_.string(),
                            tensor, file);
}

void ShardedReader::add_files(const std::filesystem::path& directory, const std::vector<std::string>& names,
                              const SafetensorsIndex* index) {
  files_.reserve(names.size());  // locations point into files
  for (const std::string& name : names) files_.emplace_back(directory / name);
  for (size_t i = 0; i < files_.size(); ++i) {
    const SafetensorsFile& file = files_[i];
    for (const TensorEntry& entry : file.tensors()) {
      if (index) {
        const auto listed = index->weight_map.find(entry.name);
        if (listed == index->weight_map.end() || listed->second != names[i]) {
          ++unlisted_;
          continue;
        }
      }
      index_.emplace(entry.name, locations_.size());
      locations_.push_back({&file, &entry});
      total_bytes_ += entry.bytes;
    }
  }
}

std::vector<std::string> ShardedReader::unlisted_files() const {
  std::vector<std::string> found;
  if (!std::filesystem::is_directory(path_)) return found;
  for (const auto& item : std::filesystem::directory_iterator(path_)) {
    const std::string name = item.path().filename().string();
    const auto is_this = [&](const SafetensorsFile& file) { return file.path().filename() == name; };
    if (item.path().extension() == ".safetensors" && std::none_of(files_.begin(), files_.end(), is_this))
      found.push_back(name);
  }
  std::sort(found.begin(), found.end());
  return found;
}

const ShardedReader::Location* ShardedReader::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &locations_[found->second];
}

const ShardedReader::Location& ShardedReader::at(std::string_view name) const {
  const Location* location = find(name);
  if (!location) throw CheckpointError("{}: no tensor \"{}\" in this checkpoint", path_.string(), name);
  return *location;
}

std::vector<ShardPlan> plan_shards(const std::vector<TensorDeclaration>& tensors, uint64_t max_bytes) {
  std::vector<ShardPlan> shards(1);
  uint64_t bytes = 0;
  for (const TensorDeclaration& tensor : tensors) {
    const uint64_t size = tensor_bytes(tensor.dtype, tensor.shape, tensor.name);
    if (!shards.back().tensors.empty() && (bytes > max_bytes || size > max_bytes - bytes)) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().tensors.push_back(tensor);
    bytes += size;
  }
  if (shards.size() == 1) {
    shards[0].file = kSingleFileName;
  } else {
    for (size_t i = 0; i < shards.size(); ++i)
      shards[i].file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  }
  return shards;
}

}  // namespace fathom::formats

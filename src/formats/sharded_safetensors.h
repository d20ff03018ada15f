// A checkpoint directory as Hugging Face lays it out: model.safetensors, or model.safetensors.index.json
// whose weight_map says which file holds which tensor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "formats/safetensors.h"

namespace fathom::formats {

inline constexpr const char* kSingleFileName = "model.safetensors";
inline constexpr const char* kIndexFileName = "model.safetensors.index.json";
inline constexpr const char* kParameterMapName = "param_name_map.json";  // MindSpore's index

struct SafetensorsIndex {
  std::map<std::string, std::string> weight_map;  // tensor name -> file name inside the directory
  uint64_t total_size = 0;                        // bytes of all tensors, as the file says (0: it does not)
};

// Throws FileError, CheckpointError: not JSON, no weight_map, a file name that leaves the directory.
SafetensorsIndex read_safetensors_index(const std::filesystem::path& path);
void write_safetensors_index(const std::filesystem::path& path, const SafetensorsIndex& index);
// MindSpore's: tensor name -> file name, at the top or in "weight_map". Throws as read_safetensors_index.
SafetensorsIndex read_parameter_map(const std::filesystem::path& path);
void write_parameter_map(const std::filesystem::path& path, const SafetensorsIndex& index);

// Every tensor of a directory, all shards mapped. `path` may also be one .safetensors or one .index.json
// file. Throws CheckpointError: neither file there, shards missing (named), a shard that lacks a tensor the
// index promises. Tensors that lie in a shard but not in the index are left out, as the index decides;
// unlisted() counts them.
class ShardedReader {
 public:
  explicit ShardedReader(const std::filesystem::path& path);
  ShardedReader(const std::filesystem::path& directory, const SafetensorsIndex& index);

  struct Location {
    const SafetensorsFile* file = nullptr;
    const TensorEntry* entry = nullptr;
    std::span<const std::byte> bytes() const { return file->bytes(*entry); }
  };
  const Location* find(std::string_view name) const;                   // nullptr: no such tensor
  const Location& at(std::string_view name) const;                     // throws CheckpointError
  const std::vector<Location>& tensors() const { return locations_; }  // by file, then offset
  const std::vector<SafetensorsFile>& files() const { return files_; }
  int64_t unlisted() const { return unlisted_; }
  // *.safetensors files of the directory that its index does not name: other programs may read those instead.
  std::vector<std::string> unlisted_files() const;
  uint64_t total_bytes() const { return total_bytes_; }

 private:
  void add_index(const std::filesystem::path& directory, const SafetensorsIndex& index);
  void add_files(const std::filesystem::path& directory, const std::vector<std::string>& names,
                 const SafetensorsIndex* index);
  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;
  std::vector<Location> locations_;
  std::unordered_map<std::string_view, size_t> index_;
  int64_t unlisted_ = 0;
  uint64_t total_bytes_ = 0;
};

struct ShardPlan {
  std::string file;  // model.safetensors, or model-00001-of-00007.safetensors
  std::vector<TensorDeclaration> tensors;
};

// Cuts the tensors, in their order, into files of at most `max_bytes` of data each (one tensor larger than
// that gets a file to itself). One file is called model.safetensors and needs no index.
std::vector<ShardPlan> plan_shards(const std::vector<TensorDeclaration>& tensors, uint64_t max_bytes);

}  // namespace fathom::formats

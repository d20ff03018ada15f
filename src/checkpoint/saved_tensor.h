// A tensor on its way to a file, made from memory in chunks of bounded size, and the files that a checkpoint
// is made of. What produces the elements (this rank's parameters, a generator, a snapshot) is the caller's
// affair.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "formats/sharded_safetensors.h"

namespace fathom::checkpoint {

struct SavedTensor {
  formats::TensorDeclaration declaration;
  // Writes elements [begin, begin + count) of row-major order, in the declared dtype, to `out`. Must stay
  // callable until the tensor is written; reads the live values.
  std::function<void(int64_t begin, int64_t count, std::byte* out)> read;
  int64_t granule = 1;  // reading fewer elements at a time, or from elsewhere than its multiples, is slow
  int64_t numel() const;
  uint64_t bytes() const;
};

struct SavedFile {
  std::string name;  // inside the checkpoint directory
  std::vector<SavedTensor> tensors;
  std::map<std::string, std::string> metadata;
  uint64_t bytes() const;  // of the tensors
};

inline constexpr uint64_t kDefaultShardBytes = 5'000'000'000;

std::vector<formats::TensorDeclaration> declarations(const std::vector<SavedTensor>& tensors);
// As formats::plan_shards cuts and names them.
std::vector<SavedFile> cut_into_files(std::vector<SavedTensor> tensors, uint64_t max_file_bytes);

// Calls sink(byte_offset, bytes) for consecutive chunks of the tensor; `buffer` is reused between
// tensors.
void for_each_chunk(const SavedTensor& tensor, std::vector<std::byte>& buffer,
                    const std::function<void(uint64_t offset, std::span<const std::byte> bytes)>& sink);
// Writes and syncs one file. Throws FileError (disk full, ...).
void write_saved_file(const std::filesystem::path& directory, const SavedFile& file);

}  // namespace fathom::checkpoint

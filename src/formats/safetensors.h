// One safetensors file: u64 little-endian header length, a JSON header {name: {dtype, shape, data_offsets}},
// then the tensors' bytes, little-endian and row-major, without holes (format: huggingface/safetensors,
// README "Format"). Reading maps the file and copies nothing; a header that lies about anything is a
// CheckpointError naming file, tensor and offsets. Writing declares every tensor first, then fills them whole
// or by slices in any order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "formats/dtype.h"

namespace fathom::formats {

struct TensorDeclaration {
  std::string name;
  Dtype dtype = Dtype::F32;
  std::vector<int64_t> shape;  // [] is a scalar; a dimension may be 0
};

struct TensorEntry {
  std::string name;
  Dtype dtype = Dtype::F32;
  std::vector<int64_t> shape;
  uint64_t offset = 0;  // of the first byte, from the beginning of the file
  uint64_t bytes = 0;
  int64_t numel() const;
};

// Bytes of a tensor; throws CheckpointError (with `where`): negative dimension, overflow, packed bits that
// end inside a byte.
uint64_t tensor_bytes(Dtype dtype, std::span<const int64_t> shape, const std::string& where);

struct SafetensorsHeader {
  std::vector<TensorEntry> tensors;             // by offset
  std::map<std::string, std::string> metadata;  // "__metadata__"
  uint64_t data_begin = 0;                      // file offset of the first tensor byte
};

// Reads and checks the header of a file of `file_bytes` bytes whose beginning is `file` (the fuzzers' entry).
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, uint64_t file_bytes,
                                           const std::string& where);

// Constant once made: any number of threads may read through one.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);  // throws FileError, CheckpointError

  const std::filesystem::path& path() const { return file_.path(); }
  const std::vector<TensorEntry>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  const TensorEntry* find(std::string_view name) const;  // nullptr: no such tensor
  const TensorEntry& at(std::string_view name) const;    // throws CheckpointError
  // Views into the map; valid as long as this object. Aligned to the element size only if the writer cared.
  std::span<const std::byte> bytes(const TensorEntry& entry) const;
  std::span<const std::byte> bytes(std::string_view name) const { return bytes(at(name)); }

 private:
  MappedFile file_;
  SafetensorsHeader header_;
  std::unordered_map<std::string_view, size_t> index_;
};

// Writes through AtomicFile: the file appears at commit(), complete, or never. Metadata always says format:
// pt, as HF readers ask. Tensors lie in order of element size (wide first), then of declaration, so each one
// is aligned. write and write_slice may run on several threads at once. Every call throws FileError (disk full, ...) or CheckpointError (undeclared,
// twice, wrong size).
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, const std::vector<TensorDeclaration>& tensors,
                    const std::map<std::string, std::string>& metadata = {});

  void write(std::string_view name, std::span<const std::byte> bytes);  // the whole tensor
  // `begin` is a byte offset inside the tensor. Slices may come in any order but must not overlap.
  void write_slice(std::string_view name, uint64_t begin, std::span<const std::byte> bytes);
  const std::vector<TensorEntry>& tensors() const { return tensors_; }  // in file order
  uint64_t file_bytes() const { return file_bytes_; }
  void commit();  // throws CheckpointError naming a tensor that is not whole yet

 private:
  std::filesystem::path path_;
  std::vector<TensorEntry> tensors_;
  std::vector<uint64_t> written_;  // bytes, per tensor
  std::unordered_map<std::string_view, size_t> index_;
  uint64_t file_bytes_ = 0;
  AtomicFile file_;
};

}  // namespace fathom::formats

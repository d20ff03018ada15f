// One GGUF file, versions 2 and 3, little-endian (format: ggml-org/ggml, docs/gguf.md): "GGUF", version, tensor count,
// metadata count; the metadata as key, type, value; for each tensor name, dimensions (innermost first), type and offset;
// then the data, aligned. Reading maps the file and copies only the metadata; a file that lies about anything is a
// CheckpointError naming key or tensor and byte offset. Writing (version 3) declares everything first, then fills tensors
// by slices in any order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/file.h"

namespace fathom::formats {

// ggml's element types under its numbers; those that no value here stands for are not read.
// clang-format off
enum class GgmlType : uint32_t {
  F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q8_1 = 9,
  Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14, Q8_K = 15,
  IQ2_XXS = 16, IQ2_XS = 17, IQ3_XXS = 18, IQ1_S = 19, IQ4_NL = 20, IQ3_S = 21, IQ2_S = 22, IQ4_XS = 23,
  I8 = 24, I16 = 25, I32 = 26, I64 = 27, F64 = 28, IQ1_M = 29, BF16 = 30, TQ1_0 = 34, TQ2_0 = 35, MXFP4 = 39,
};
// clang-format on

struct GgmlTypeInfo {
  GgmlType type;
  std::string_view name;
  int64_t block_elements;  // a row is whole blocks
  int64_t block_bytes;
};
const GgmlTypeInfo* find_ggml_type(uint32_t number);  // nullptr: unknown
const GgmlTypeInfo& ggml_type_info(GgmlType type);

// Bytes of a tensor; throws CheckpointError (with `where`): negative dimension, overflow, rows that are no whole blocks.
uint64_t ggml_tensor_bytes(GgmlType type, std::span<const int64_t> shape, const std::string& where);

enum class GgufType : uint32_t {
  uint8 = 0,
  int8 = 1,
  uint16 = 2,
  int16 = 3,
  uint32 = 4,
  int32 = 5,
  float32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  uint64 = 10,
  int64 = 11,
  float64 = 12,
};
std::string_view gguf_type_name(GgufType type);

// A metadata value. Integers are kept as 64 bits of their signedness, float32 as double (exact).
struct GgufValue {
  using Array = std::vector<GgufValue>;
  GgufType type = GgufType::uint32;
  GgufType element_type = GgufType::uint32;  // of arrays; their elements repeat it
  std::variant<uint64_t, int64_t, double, bool, std::string, Array> value;

  static GgufValue u32(uint64_t value) { return {GgufType::uint32, {}, value}; }
  static GgufValue f32(float value) { return {GgufType::float32, {}, static_cast<double>(value)}; }
  static GgufValue boolean(bool value) { return {GgufType::boolean, {}, value}; }
  static GgufValue text(std::string value) { return {GgufType::string, {}, std::move(value)}; }
  static GgufValue texts(std::vector<std::string> values);
  static GgufValue i32s(const std::vector<int32_t>& values);
  bool operator==(const GgufValue&) const = default;
};
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;  // in file order

struct GgufDeclaration {
  std::string name;
  GgmlType type = GgmlType::F32;
  std::vector<int64_t> shape;  // outermost first, as everywhere here; at most 4 dimensions
};

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::F32;
  std::vector<int64_t> shape;  // outermost first
  uint64_t offset = 0;         // of the first byte, from the beginning of the file
  uint64_t bytes = 0;
  int64_t numel() const;
};

struct GgufHeader {
  uint32_t version = 3;
  uint64_t alignment = 32;
  uint64_t data_begin = 0;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // by offset
  const GgufValue* find(std::string_view key) const;
};

// Reads and checks the header of a file of `file_bytes` bytes whose beginning is `file` (the fuzzers' entry).
GgufHeader parse_gguf_header(std::span<const std::byte> file, uint64_t file_bytes, const std::string& where);

bool is_gguf_file(
    const std::filesystem::path& path);  // by its first bytes; false: unreadable, or something else

class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& path);  // throws FileError, CheckpointError

  const std::filesystem::path& path() const { return file_.path(); }
  const GgufHeader& header() const { return header_; }
  const std::vector<GgufTensor>& tensors() const { return header_.tensors; }
  const GgufTensor* find(std::string_view name) const;  // nullptr: no such tensor
  const GgufTensor& at(std::string_view name) const;    // throws CheckpointError
  // Views into the map; valid as long as this object.
  std::span<const std::byte> bytes(const GgufTensor& tensor) const;
  size_t size() const { return file_.size(); }

 private:
  MappedFile file_;
  GgufHeader header_;
  std::unordered_map<std::string_view, size_t> index_;
};

// Writes through AtomicFile: the file appears at commit(), complete, or never. Tensors lie in the order of declaration,
// aligned to 32 bytes. write_slice may run on several threads at once. Every call throws FileError (disk full, ...) or
// CheckpointError (a name twice or too long for llama.cpp, written twice, does not fit).
class GgufWriter {
 public:
  static constexpr uint64_t kAlignment = 32;
  static constexpr size_t kMaxNameBytes = 63;  // llama.cpp's GGML_MAX_NAME with its end

  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
             const std::vector<GgufDeclaration>& tensors);

  // Tensor by its index of declaration; `begin` is a byte offset inside it. Slices must not overlap.
  void write_slice(size_t tensor, uint64_t begin, std::span<const std::byte> bytes);
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  uint64_t file_bytes() const { return file_bytes_; }
  void commit();  // throws CheckpointError naming a tensor that is not whole yet

 private:
  std::filesystem::path path_;
  std::vector<GgufTensor> tensors_;
  std::vector<uint64_t> written_;  // bytes, per tensor
  uint64_t file_bytes_ = 0;
  AtomicFile file_;
};

}  // namespace fathom::formats

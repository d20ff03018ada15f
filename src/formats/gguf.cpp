// Reading GGUF.
#include "formats/gguf.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "base/error.h"

namespace fathom::formats {
namespace {

constexpr uint32_t kMagic = 0x46554747;     // "GGUF"
constexpr uint64_t kMaxElements = 1 << 24;  // of all metadata arrays together
constexpr uint64_t kMaxKeyBytes = 65535;    // the format's own limit
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr int kMaxDepth = 4;  // arrays in arrays

constexpr std::array<GgmlTypeInfo, 32> kTypes = {{
    {GgmlType::F32, "F32", 1, 4},
    {GgmlType::F16, "F16", 1, 2},
    {GgmlType::Q4_0, "Q4_0", 32, 18},
    {GgmlType::Q4_1, "Q4_1", 32, 20},
    {GgmlType::Q5_0, "Q5_0", 32, 22},
    {GgmlType::Q5_1, "Q5_1", 32, 24},
    {GgmlType::Q8_0, "Q8_0", 32, 34},
    {GgmlType::Q8_1, "Q8_1", 32, 40},
    {GgmlType::Q2_K, "Q2_K", 256, 84},
    {GgmlType::Q3_K, "Q3_K", 256, 110},
    {GgmlType::Q4_K, "Q4_K", 256, 144},
    {GgmlType::Q5_K, "Q5_K", 256, 176},
    {GgmlType::Q6_K, "Q6_K", 256, 210},
    {GgmlType::Q8_K, "Q8_K", 256, 292},
    {GgmlType::IQ2_XXS, "IQ2_XXS", 256, 66},
    {GgmlType::IQ2_XS, "IQ2_XS", 256, 74},
    {GgmlType::IQ3_XXS, "IQ3_XXS", 256, 98},
    {GgmlType::IQ1_S, "IQ1_S", 256, 50},
    {GgmlType::IQ4_NL, "IQ4_NL", 32, 18},
    {GgmlType::IQ3_S, "IQ3_S", 256, 110},
    {GgmlType::IQ2_S, "IQ2_S", 256, 82},
    {GgmlType::IQ4_XS, "IQ4_XS", 256, 136},
    {GgmlType::I8, "I8", 1, 1},
    {GgmlType::I16, "I16", 1, 2},
    {GgmlType::I32, "I32", 1, 4},
    {GgmlType::I64, "I64", 1, 8},
    {GgmlType::F64, "F64", 1, 8},
    {GgmlType::IQ1_M, "IQ1_M", 256, 56},
    {GgmlType::BF16, "BF16", 1, 2},
    {GgmlType::TQ1_0, "TQ1_0", 256, 54},
    {GgmlType::TQ2_0, "TQ2_0", 256, 66},
    {GgmlType::MXFP4, "MXFP4", 32, 17},
}};

constexpr std::array<std::string_view, 13> kValueNames = {"uint8",  "int8",    "uint16", "int16",  "uint32",
                                                          "int32",  "float32", "bool",   "string", "array",
                                                          "uint64", "int64",   "float64"};

// Fewest bytes that a value of the type takes.
uint64_t least_bytes(GgufType type) {
  switch (type) {
    case GgufType::uint8:
    case GgufType::int8:
    case GgufType::boolean:
      return 1;
    case GgufType::uint16:
    case GgufType::int16:
      return 2;
    case GgufType::uint32:
    case GgufType::int32:
    case GgufType::float32:
      return 4;
    case GgufType::array:
      return 12;
    default:
      return 8;  // a string's length among them
  }
}

std::string shown(std::string_view name) { return fmt::format("{:?}", name.substr(0, 80)); }

// Reads values off the file and knows where it is.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string where) : bytes_(bytes), where_(std::move(where)) {}

  uint64_t offset() const { return offset_; }
  uint64_t left() const { return bytes_.size() - offset_; }

  template <typename... Args>
  [[noreturn]] void refuse(const std::string& what, fmt::format_string<Args...> reason,
                           Args&&... args) const {
    throw CheckpointError("{}: {} at byte {}: {}", where_, what, offset_,
                          fmt::format(reason, std::forward<Args>(args)...));
  }

  void need(uint64_t bytes, const std::string& what) const {
    if (bytes > left())
      refuse(what, "{} bytes are wanted, the file has {} more: it is truncated or damaged; fetch it again",
             bytes, left());
  }

  template <typename T>
  T get(const std::string& what) {
    need(sizeof(T), what);
    T value;
    std::memcpy(&value, bytes_.data() + offset_, sizeof value);
    offset_ += sizeof value;
    return value;
  }

  std::string text(const std::string& what, uint64_t most) {
    const auto length = get<uint64_t>(what);
    if (length > most) refuse(what, "its length {} is over {}", length, most);
    need(length, what);
    std::string result(reinterpret_cast<const char*>(bytes_.data()) + offset_, length);
    offset_ += length;
    return result;
  }

  GgufType type(const std::string& what) {
    const auto number = get<uint32_t>(what);
    if (number >= kValueNames.size()) refuse(what, "value type {} is unknown", number);
    return static_cast<GgufType>(number);
  }

  GgufValue value(GgufType type, const std::string& what, int depth = 0) {
    GgufValue result;
    result.type = type;
    switch (type) {
      case GgufType::uint8:
        result.value = uint64_t{get<uint8_t>(what)};
        break;
      case GgufType::uint16:
        result.value = uint64_t{get<uint16_t>(what)};
        break;
      case GgufType::uint32:
        result.value = uint64_t{get<uint32_t>(what)};
        break;
      case GgufType::uint64:
        result.value = get<uint64_t>(what);
        break;
      case GgufType::int8:
        result.value = int64_t{get<int8_t>(what)};
        break;
      case GgufType::int16:
        result.value = int64_t{get<int16_t>(what)};
        break;
      case GgufType::int32:
        result.value = int64_t{get<int32_t>(what)};
        break;
      case GgufType::int64:
        result.value = get<int64_t>(what);
        break;
      case GgufType::float32:
        result.value = static_cast<double>(get<float>(what));
        break;
      case GgufType::float64:
        result.value = get<double>(what);
        break;
      case GgufType::boolean: {
        const auto byte = get<uint8_t>(what);
        if (byte > 1) refuse(what, "a bool of {}", byte);
        result.value = byte == 1;
        break;
      }
      case GgufType::string:
        result.value = text(what, left());
        break;
      case GgufType::array:
        read_array(result, what, depth);
        break;
    }
    return result;
  }

 private:
  void read_array(GgufValue& result, const std::string& what, int depth) {
    if (depth >= kMaxDepth) refuse(what, "arrays lie in arrays more than {} deep", kMaxDepth);
    result.element_type = type(what);
    const auto count = get<uint64_t>(what);
    if (count > left() / least_bytes(result.element_type))
      refuse(what, "{} elements of {} do not fit into the {} bytes left: it is truncated or damaged", count,
             gguf_type_name(result.element_type), left());
    elements_ += count;
    if (elements_ > kMaxElements) refuse(what, "the metadata has over {} array elements", kMaxElements);
    GgufValue::Array array;
    array.reserve(count);
    for (uint64_t i = 0; i < count; ++i) array.push_back(value(result.element_type, what, depth + 1));
    result.value = std::move(array);
  }

  std::span<const std::byte> bytes_;
  std::string where_;
  uint64_t offset_ = 0, elements_ = 0;
};

GgufTensor read_tensor(Cursor& cursor, uint64_t index, const std::string& file) {
  GgufTensor tensor;
  tensor.name = cursor.text(fmt::format("the name of tensor {}", index), kMaxKeyBytes);
  const std::string what = "tensor " + shown(tensor.name);
  const auto dimensions = cursor.get<uint32_t>(what);
  if (dimensions > kMaxDimensions)
    cursor.refuse(what, "{} dimensions; there are at most {}", dimensions, kMaxDimensions);
  for (uint32_t i = 0; i < dimensions; ++i) {
    const auto size = cursor.get<uint64_t>(what);
    if (size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      cursor.refuse(what, "dimension {} overflows", size);
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
  }
  const auto number = cursor.get<uint32_t>(what);
  const GgmlTypeInfo* info = find_ggml_type(number);
  if (!info) cursor.refuse(what, "element type {} is unknown to this version", number);
  tensor.type = info->type;
  tensor.offset = cursor.get<uint64_t>(what);
  tensor.bytes = ggml_tensor_bytes(tensor.type, tensor.shape, file + ": " + what);
  return tensor;
}

// Sorts tensors by offset and makes the offsets those of the file.
void place(GgufHeader& header, uint64_t file_bytes, const std::string& file) {
  for (GgufTensor& tensor : header.tensors) {
    const std::string where = file + ": tensor " + shown(tensor.name);
    if (tensor.offset % header.alignment != 0)
      throw CheckpointError("{}: its offset {} is no multiple of the alignment {}", where, tensor.offset,
                            header.alignment);
    const uint64_t data_bytes = file_bytes - std::min(file_bytes, header.data_begin);
    if (tensor.offset > data_bytes || tensor.bytes > data_bytes - tensor.offset)
      throw CheckpointError(
          "{}: its {} bytes at offset {} end past the file, which has {} bytes of data from byte {} on: it "
          "is "
          "truncated or damaged; fetch it again",
          where, tensor.bytes, tensor.offset, data_bytes, header.data_begin);
    tensor.offset += header.data_begin;
  }
  std::stable_sort(header.tensors.begin(), header.tensors.end(),
                   [](const GgufTensor& a, const GgufTensor& b) {
                     return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
                   });
  for (size_t i = 1; i < header.tensors.size(); ++i) {
    const GgufTensor &before = header.tensors[i - 1], &tensor = header.tensors[i];
    if (tensor.offset < before.offset + before.bytes)
      throw CheckpointError("{}: tensor {} at byte {} overlaps tensor {}, which ends at byte {}", file,
                            shown(tensor.name), tensor.offset, shown(before.name),
                            before.offset + before.bytes);
  }
}

template <typename Items, typename Name>
void refuse_twice(const Items& items, Name name, const char* what, const std::string& file) {
  std::vector<std::string_view> names;
  names.reserve(items.size());
  for (const auto& item : items) names.push_back(name(item));
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) throw CheckpointError("{}: {} {} stands twice", file, what, shown(*twice));
}

uint64_t alignment_of(const GgufHeader& header, const std::string& file) {
  const GgufValue* value = header.find("general.alignment");
  if (!value) return GgufWriter::kAlignment;
  const auto* number = std::get_if<uint64_t>(&value->value);
  if (value->type != GgufType::uint32 || *number == 0 || *number % 8 != 0 || *number > kMaxAlignment ||
      !std::has_single_bit(*number))
    throw CheckpointError("{}: general.alignment: expected a power of two from 8 to {} as uint32", file,
                          kMaxAlignment);
  return *number;
}

}  // namespace

const GgmlTypeInfo* find_ggml_type(uint32_t number) {
  for (const GgmlTypeInfo& info : kTypes)
    if (static_cast<uint32_t>(info.type) == number) return &info;
  return nullptr;
}

const GgmlTypeInfo& ggml_type_info(GgmlType type) {
  const GgmlTypeInfo* info = find_ggml_type(static_cast<uint32_t>(type));
  if (!info)
    throw std::logic_error("internal error: no ggml type " + std::to_string(static_cast<uint32_t>(type)));
  return *info;
}

std::string_view gguf_type_name(GgufType type) { return kValueNames.at(static_cast<size_t>(type)); }

uint64_t ggml_tensor_bytes(GgmlType type, std::span<const int64_t> shape, const std::string& where) {
  const GgmlTypeInfo& info = ggml_type_info(type);
  const int64_t row = shape.empty() ? 1 : shape.back();
  for (const int64_t dim : shape)
    if (dim < 0)
      throw CheckpointError("{}: shape [{}] has a negative dimension", where, fmt::join(shape, ", "));
  if (row % info.block_elements != 0)
    throw CheckpointError("{}: a row of {} elements is no whole number of {} blocks of {}", where, row,
                          info.name, info.block_elements);
  auto bytes = static_cast<uint64_t>(row / info.block_elements);
  bool overflows = __builtin_mul_overflow(bytes, static_cast<uint64_t>(info.block_bytes), &bytes);
  for (size_t i = 0; i + 1 < shape.size(); ++i)
    overflows = __builtin_mul_overflow(bytes, static_cast<uint64_t>(shape[i]), &bytes) || overflows;
  // Also the count of elements, which blocks may make larger than the bytes.
  int64_t elements = 1;
  for (const int64_t dim : shape) overflows = __builtin_mul_overflow(elements, dim, &elements) || overflows;
  if (overflows || bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    throw CheckpointError("{}: the size of {} [{}] overflows", where, info.name, fmt::join(shape, ", "));
  return bytes;
}

GgufValue GgufValue::texts(std::vector<std::string> values) {
  Array array;
  array.reserve(values.size());
  for (std::string& value : values) array.push_back(text(std::move(value)));
  return {GgufType::array, GgufType::string, std::move(array)};
}

GgufValue GgufValue::i32s(const std::vector<int32_t>& values) {
  Array array;
  array.reserve(values.size());
  for (const int32_t value : values) array.push_back({GgufType::int32, {}, int64_t{value}});
  return {GgufType::array, GgufType::int32, std::move(array)};
}

int64_t GgufTensor::numel() const {
  int64_t n = 1;
  for (const int64_t dim : shape) n *= dim;
  return n;
}

const GgufValue* GgufHeader::find(std::string_view key) const {
  for (const auto& [name, value] : metadata)
    if (name == key) return &value;
  return nullptr;
}

GgufHeader parse_gguf_header(std::span<const std::byte> file, uint64_t file_bytes, const std::string& where) {
  Cursor cursor(file, where);
  if (file.size() < sizeof kMagic || cursor.get<uint32_t>("the magic") != kMagic)
    throw CheckpointError("{}: it does not begin with GGUF: this is no GGUF file", where);
  GgufHeader header;
  header.version = cursor.get<uint32_t>("the version");
  if (header.version != 2 && header.version != 3)
    throw CheckpointError("{}: GGUF version {} is not read, only 2 and 3{}", where, header.version,
                          header.version == 1          ? ": convert the model anew"
                          : header.version > 0xFFFFFFu ? ": this file is big-endian"
                                                       : "");
  const auto num_tensors = cursor.get<uint64_t>("the tensor count");
  if (num_tensors > cursor.left() / 24)  // a name's length, dimension count, type and offset
    cursor.refuse("the tensor count", "{} tensors do not fit into the {} bytes left", num_tensors,
                  cursor.left());
  const auto num_values = cursor.get<uint64_t>("the metadata count");
  if (num_values > cursor.left() / 13)  // a key's length, type and value
    cursor.refuse("the metadata count", "{} keys do not fit into the {} bytes left", num_values,
                  cursor.left());
  for (uint64_t i = 0; i < num_values; ++i) {
    std::string key = cursor.text(fmt::format("the name of key {}", i), kMaxKeyBytes);
    const std::string what = "key " + shown(key);
    const GgufType type = cursor.type(what);
    header.metadata.emplace_back(std::move(key), cursor.value(type, what));
  }
  refuse_twice(
      header.metadata, [](const auto& item) { return std::string_view(item.first); }, "key", where);
  header.alignment = alignment_of(header, where);
  header.tensors.reserve(num_tensors);
  for (uint64_t i = 0; i < num_tensors; ++i) header.tensors.push_back(read_tensor(cursor, i, where));
  refuse_twice(
      header.tensors, [](const auto& item) { return std::string_view(item.name); }, "tensor", where);
  header.data_begin = (cursor.offset() + header.alignment - 1) / header.alignment * header.alignment;
  place(header, file_bytes, where);
  return header;
}

bool is_gguf_file(const std::filesystem::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error) || fs::file_size(path, error) < sizeof kMagic) return false;
  const MappedFile file(path);
  return file.text().starts_with("GGUF");
}

GgufFile::GgufFile(const std::filesystem::path& path) : file_(path) {
  header_ = parse_gguf_header({file_.data(), file_.size()}, file_.size(), path.string());
  index_.reserve(header_.tensors.size());
  for (size_t i = 0; i < header_.tensors.size(); ++i) index_.emplace(header_.tensors[i].name, i);
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &header_.tensors[found->second];
}

const GgufTensor& GgufFile::at(std::string_view name) const {
  const GgufTensor* tensor = find(name);
  if (!tensor) throw CheckpointError("{}: no tensor {} in this file", path().string(), shown(name));
  return *tensor;
}

std::span<const std::byte> GgufFile::bytes(const GgufTensor& tensor) const {
  return {file_.data() + tensor.offset, static_cast<size_t>(tensor.bytes)};
}

}  // namespace fathom::formats

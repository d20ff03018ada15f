#include "formats/safetensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/json.h"

namespace fathom::formats {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as the reference reader
constexpr const char* kMetadataKey = "__metadata__";

std::string shape_text(std::span<const int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

const SortedJson& member(const SortedJson& tensor, const char* key, const std::string& where) {
  const auto found = tensor.find(key);
  if (found == tensor.end())
    throw CheckpointError("{}: no \"{}\": the header is damaged; fetch the file again", where, key);
  return *found;
}

uint64_t unsigned_value(const SortedJson& value, const char* what, const std::string& where) {
  if (!value.is_number_unsigned())
    throw CheckpointError("{}: {} holds {}, which is no whole number >= 0", where, what,
                          value.dump(-1, ' ', true, SortedJson::error_handler_t::replace).substr(0, 80));
  return value.get<uint64_t>();
}

TensorEntry parse_entry(const std::string& name, const SortedJson& value, uint64_t data_begin,
                        uint64_t file_bytes, const std::string& file) {
  const std::string where = fmt::format("{}: tensor \"{}\"", file, name);
  if (!value.is_object())
    throw CheckpointError("{}: its header entry is no object with dtype, shape and data_offsets", where);
  TensorEntry entry;
  entry.name = name;
  for (const auto& [key, unused] : value.items())
    if (key != "dtype" && key != "shape" && key != "data_offsets")
      throw CheckpointError("{}: unknown key \"{}\" in its header entry", where, key);

  const SortedJson& dtype = member(value, "dtype", where);
  if (!dtype.is_string()) throw CheckpointError("{}: dtype is no string", where);
  const auto known = parse_dtype(dtype.get_ref<const std::string&>());
  if (!known)
    throw CheckpointError("{}: dtype \"{}\" is unknown to this version", where,
                          dtype.get_ref<const std::string&>());
  entry.dtype = *known;

  const SortedJson& shape = member(value, "shape", where);
  if (!shape.is_array()) throw CheckpointError("{}: shape is no list", where);
  for (const SortedJson& dim : shape) {
    const uint64_t size = unsigned_value(dim, "shape", where);
    if (size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      throw CheckpointError("{}: shape holds {}, which overflows", where, size);
    entry.shape.push_back(static_cast<int64_t>(size));
  }

  const SortedJson& offsets = member(value, "data_offsets", where);
  if (!offsets.is_array() || offsets.size() != 2)
    throw CheckpointError("{}: data_offsets is no pair [begin, end]", where);
  const uint64_t begin = unsigned_value(offsets[0], "data_offsets", where);
  const uint64_t end = unsigned_value(offsets[1], "data_offsets", where);
  if (end < begin)
    throw CheckpointError("{}: data_offsets [{}, {}] end before they begin", where, begin, end);
  if (end > file_bytes - data_begin)
    throw CheckpointError(
        "{}: data_offsets [{}, {}] end past the file, which has {} bytes of data: it is truncated or "
        "damaged; fetch "
        "it again",
        where, begin, end, file_bytes - data_begin);
  const uint64_t expected = tensor_bytes(entry.dtype, entry.shape, where);
  if (end - begin != expected)
    throw CheckpointError("{}: {} {} needs {} bytes, but data_offsets [{}, {}] hold {}", where,
                          dtype_name(entry.dtype), shape_text(entry.shape), expected, begin, end,
                          end - begin);
  entry.offset = data_begin + begin;
  entry.bytes = expected;
  return entry;
}

// Tensors sorted by offset must tile [data_begin, file_bytes).
void check_tiling(const SafetensorsHeader& header, uint64_t file_bytes, const std::string& file) {
  uint64_t position = header.data_begin;
  const TensorEntry* before = nullptr;
  for (const TensorEntry& entry : header.tensors) {
    if (entry.offset < position)
      throw CheckpointError("{}: tensor \"{}\" at byte {} overlaps tensor \"{}\", which ends at byte {}",
                            file, entry.name, entry.offset, before ? before->name : "", position);
    if (entry.offset > position)
      throw CheckpointError(
          "{}: bytes {} to {} before tensor \"{}\" belong to no tensor; the format allows no holes", file,
          position, entry.offset, entry.name);
    position = entry.offset + entry.bytes;
    before = &entry;
  }
  if (position != file_bytes)
    throw CheckpointError("{}: the file has {} bytes after its last tensor, which ends at byte {}", file,
                          file_bytes - position, position);
}

}  // namespace

int64_t TensorEntry::numel() const {
  int64_t n = 1;
  for (const int64_t dim : shape) n *= dim;
  return n;
}

uint64_t tensor_bytes(Dtype dtype, std::span<const int64_t> shape, const std::string& where) {
  // A 0 anywhere makes the tensor empty, but the other dimensions must still make sense.
  uint64_t bits = static_cast<uint64_t>(dtype_bits(dtype));
  for (const int64_t dim : shape) {
    if (dim < 0) throw CheckpointError("{}: shape {} has a negative dimension", where, shape_text(shape));
    if (__builtin_mul_overflow(bits, static_cast<uint64_t>(dim), &bits) ||
        bits > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      throw CheckpointError("{}: the size of {} {} overflows", where, dtype_name(dtype), shape_text(shape));
  }
  if (bits % 8 != 0)
    throw CheckpointError("{}: {} {} ends inside a byte", where, dtype_name(dtype), shape_text(shape));
  return bits / 8;
}

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, uint64_t file_bytes,
                                           const std::string& where) {
  if (file.size() < 8)
    throw CheckpointError("{}: {} bytes are too few for a safetensors file: it is truncated; fetch it again",
                          where, file.size());
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  if (length > kMaxHeaderBytes)
    throw CheckpointError(
        "{}: its first 8 bytes say that the header has {} bytes; over {} is refused (is this a "
        "safetensors file?)",
        where, length, kMaxHeaderBytes);
  if (length > file.size() - 8)
    throw CheckpointError(
        "{}: a header of {} bytes ends past the file of {} bytes: it is truncated; fetch it again", where,
        length, file_bytes);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, length);
  if (text.empty() || text[0] != '{')
    throw CheckpointError("{}: the header at byte 8 does not begin with '{{': this is no safetensors file",
                          where);

  SortedJson object;
  try {
    object = parse_sorted_json(text, where + " (header at byte 8)");
  } catch (const ConfigError& e) {
    throw CheckpointError("{}", e.what());
  }
  SafetensorsHeader header;
  header.data_begin = 8 + length;
  header.tensors.reserve(object.size());
  for (const auto& [name, value] : object.items()) {
    if (name == kMetadataKey) {
      if (!value.is_object()) throw CheckpointError("{}: {} is no object", where, kMetadataKey);
      for (const auto& [key, text_value] : value.items()) {
        if (!text_value.is_string())
          throw CheckpointError("{}: {}.{} is no string; the format allows only strings", where, kMetadataKey,
                                key);
        header.metadata[key] = text_value.get<std::string>();
      }
    } else {
      header.tensors.push_back(parse_entry(name, value, header.data_begin, file_bytes, where));
    }
  }
  // Empty tensors share an offset with their successor, so they sort before it.
  std::stable_sort(header.tensors.begin(), header.tensors.end(),
                   [](const TensorEntry& a, const TensorEntry& b) {
                     return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
                   });
  check_tiling(header, file_bytes, where);
  return header;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  header_ = parse_safetensors_header({file_.data(), file_.size()}, file_.size(), path.string());
  index_.reserve(header_.tensors.size());
  for (size_t i = 0; i < header_.tensors.size(); ++i) index_.emplace(header_.tensors[i].name, i);
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &header_.tensors[found->second];
}

const TensorEntry& SafetensorsFile::at(std::string_view name) const {
  const TensorEntry* entry = find(name);
  if (!entry) throw CheckpointError("{}: no tensor \"{}\" in this file", path().string(), name);
  return *entry;
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorEntry& entry) const {
  return {file_.data() + entry.offset, static_cast<size_t>(entry.bytes)};
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     const std::vector<TensorDeclaration>& tensors,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), file_(path) {
  uint64_t data_bytes = 0;
  for (const TensorDeclaration& tensor : tensors) {
    const std::string where = fmt::format("{}: tensor \"{}\"", path.string(), tensor.name);
    if (tensor.name == kMetadataKey) throw CheckpointError("{}: this name is reserved by the format", where);
    tensors_.push_back(
        {tensor.name, tensor.dtype, tensor.shape, 0, tensor_bytes(tensor.dtype, tensor.shape, where)});
  }
  std::stable_sort(tensors_.begin(), tensors_.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return dtype_bits(a.dtype) > dtype_bits(b.dtype);
  });
  Json header = Json::object();
  Json& meta = header[kMetadataKey] = {{"format", "pt"}};
  for (const auto& [key, value] : metadata) meta[key] = value;
  index_.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    TensorEntry& entry = tensors_[i];
    if (!index_.emplace(entry.name, i).second)
      throw CheckpointError("{}: tensor \"{}\" is declared twice", path.string(), entry.name);
    entry.offset = data_bytes;
    if (__builtin_add_overflow(data_bytes, entry.bytes, &data_bytes))
      throw CheckpointError("{}: tensor \"{}\" makes the file overflow", path.string(), entry.name);
    // push_back, not header[name]: looking each name up in an ordered object costs quadratic time.
    header.get_ref<Json::object_t&>().emplace_back(entry.name,
                                                   Json{{"dtype", dtype_name(entry.dtype)},
                                                        {"shape", entry.shape},
                                                        {"data_offsets", {entry.offset, data_bytes}}});
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& e) {
    throw CheckpointError("{}: a tensor name or metadata value is not valid UTF-8: {}", path.string(),
                          e.what());
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kMaxHeaderBytes)
    throw CheckpointError("{}: {} tensors make a header of {} bytes; readers refuse over {}: use more shards",
                          path.string(), tensors_.size(), text.size(), kMaxHeaderBytes);
  const uint64_t length = text.size();
  file_.write(&length, sizeof length);
  file_.write(text);
  for (TensorEntry& entry : tensors_) entry.offset += 8 + length;
  written_.assign(tensors_.size(), 0);
  file_.write_at(8 + length, nullptr, 0);  // flushes, so that slices share no buffer
  file_bytes_ = 8 + length + data_bytes;
}

void SafetensorsWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  const auto found = index_.find(name);
  if (found != index_.end() && tensors_[found->second].bytes != bytes.size())
    throw CheckpointError("{}: tensor \"{}\" has {} bytes, given are {}", path_.string(), name,
                          tensors_[found->second].bytes, bytes.size());
  write_slice(name, 0, bytes);
}

void SafetensorsWriter::write_slice(std::string_view name, uint64_t begin, std::span<const std::byte> bytes) {
  const auto found = index_.find(name);
  if (found == index_.end())
    throw CheckpointError("{}: tensor \"{}\" was not declared for this file", path_.string(), name);
  const TensorEntry& entry = tensors_[found->second];
  if (begin > entry.bytes || bytes.size() > entry.bytes - begin)
    throw CheckpointError("{}: tensor \"{}\" has {} bytes; a slice of {} at byte {} does not fit",
                          path_.string(), name, entry.bytes, bytes.size(), begin);
  if (std::atomic_ref(written_[found->second]).fetch_add(bytes.size()) + bytes.size() > entry.bytes)
    throw CheckpointError("{}: tensor \"{}\" was written more than once", path_.string(), name);
  file_.write_at(entry.offset + begin, bytes.data(), bytes.size());
}

void SafetensorsWriter::commit() {
  for (size_t i = 0; i < tensors_.size(); ++i)
    if (written_[i] != tensors_[i].bytes)
      throw CheckpointError("{}: tensor \"{}\" is not complete: {} of {} bytes were written", path_.string(),
                            tensors_[i].name, written_[i], tensors_[i].bytes);
  file_.commit();
}

}  // namespace fathom::formats

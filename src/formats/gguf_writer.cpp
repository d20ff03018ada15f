// Writing GGUF, version 3.
#include <atomic>
#include <cstring>
#include <unordered_set>

#include "base/error.h"
#include "formats/gguf.h"

namespace fathom::formats {
namespace {

template <typename T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_text(std::string& out, std::string_view text) {
  put<uint64_t>(out, text.size());
  out += text;
}

void put_value(std::string& out, const GgufValue& value) {
  switch (value.type) {
    case GgufType::uint8:
      return put(out, static_cast<uint8_t>(std::get<uint64_t>(value.value)));
    case GgufType::uint16:
      return put(out, static_cast<uint16_t>(std::get<uint64_t>(value.value)));
    case GgufType::uint32:
      return put(out, static_cast<uint32_t>(std::get<uint64_t>(value.value)));
    case GgufType::uint64:
      return put(out, std::get<uint64_t>(value.value));
    case GgufType::int8:
      return put(out, static_cast<int8_t>(std::get<int64_t>(value.value)));
    case GgufType::int16:
      return put(out, static_cast<int16_t>(std::get<int64_t>(value.value)));
    case GgufType::int32:
      return put(out, static_cast<int32_t>(std::get<int64_t>(value.value)));
    case GgufType::int64:
      return put(out, std::get<int64_t>(value.value));
    case GgufType::float32:
      return put(out, static_cast<float>(std::get<double>(value.value)));
    case GgufType::float64:
      return put(out, std::get<double>(value.value));
    case GgufType::boolean:
      return put(out, static_cast<uint8_t>(std::get<bool>(value.value)));
    case GgufType::string:
      return put_text(out, std::get<std::string>(value.value));
    case GgufType::array: {
      const auto& array = std::get<GgufValue::Array>(value.value);
      put(out, static_cast<uint32_t>(value.element_type));
      put<uint64_t>(out, array.size());
      for (const GgufValue& element : array) put_value(out, element);
      return;
    }
  }
}

uint64_t aligned(uint64_t offset) {
  return (offset + GgufWriter::kAlignment - 1) / GgufWriter::kAlignment * GgufWriter::kAlignment;
}

}  // namespace

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
                       const std::vector<GgufDeclaration>& tensors)
    : path_(path), written_(tensors.size(), 0), file_(path) {
  std::string header = "GGUF";
  put<uint32_t>(header, 3);
  put<uint64_t>(header, tensors.size());
  put<uint64_t>(header, metadata.size());
  std::unordered_set<std::string_view> names;
  for (const auto& [key, value] : metadata) {
    if (!names.insert(key).second) throw CheckpointError("{}: key {} is given twice", path.string(), key);
    put_text(header, key);
    put(header, static_cast<uint32_t>(value.type));
    put_value(header, value);
  }
  names.clear();
  uint64_t data_bytes = 0;
  for (const GgufDeclaration& tensor : tensors) {
    const std::string where = fmt::format("{}: tensor {}", path.string(), tensor.name);
    if (tensor.name.size() > kMaxNameBytes)
      throw CheckpointError("{}: its name has over {} bytes, which readers refuse", where, kMaxNameBytes);
    if (!names.insert(tensor.name).second) throw CheckpointError("{} is declared twice", where);
    const uint64_t bytes = ggml_tensor_bytes(tensor.type, tensor.shape, where);
    put_text(header, tensor.name);
    put(header, static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i > 0; --i) put(header, static_cast<uint64_t>(tensor.shape[i - 1]));
    put(header, static_cast<uint32_t>(tensor.type));
    put(header, data_bytes);
    tensors_.push_back({tensor.name, tensor.type, tensor.shape, data_bytes, bytes});
    if (__builtin_add_overflow(data_bytes, aligned(bytes), &data_bytes))
      throw CheckpointError("{} makes the file overflow", where);
  }
  const uint64_t data_begin = aligned(header.size());
  header.resize(data_begin, '\0');
  file_.write(header);
  for (GgufTensor& tensor : tensors_) tensor.offset += data_begin;
  file_bytes_ = data_begin + data_bytes;
  // What lies between tensors stays a hole, which reads as zeros; the last byte makes the file as long as it is. (This
  // also flushes, so that slices share no buffer.)
  const char zero = 0;
  if (file_bytes_ > data_begin)
    file_.write_at(file_bytes_ - 1, &zero, 1);
  else
    file_.write_at(data_begin, nullptr, 0);
}

void GgufWriter::write_slice(size_t tensor, uint64_t begin, std::span<const std::byte> bytes) {
  const GgufTensor& entry = tensors_.at(tensor);
  if (begin > entry.bytes || bytes.size() > entry.bytes - begin)
    throw CheckpointError("{}: tensor {} has {} bytes; a slice of {} at byte {} does not fit", path_.string(),
                          entry.name, entry.bytes, bytes.size(), begin);
  if (std::atomic_ref(written_[tensor]).fetch_add(bytes.size()) + bytes.size() > entry.bytes)
    throw CheckpointError("{}: tensor {} was written more than once", path_.string(), entry.name);
  file_.write_at(entry.offset + begin, bytes.data(), bytes.size());
}

void GgufWriter::commit() {
  for (size_t i = 0; i < tensors_.size(); ++i)
    if (written_[i] != tensors_[i].bytes)
      throw CheckpointError("{}: tensor {} is not complete: {} of {} bytes were written", path_.string(),
                            tensors_[i].name, written_[i], tensors_[i].bytes);
  file_.commit();
}

}  // namespace fathom::formats

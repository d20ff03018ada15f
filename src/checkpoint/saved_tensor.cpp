#include "checkpoint/saved_tensor.h"

#include <algorithm>
#include <numeric>

namespace fathom::checkpoint {
namespace {

constexpr int64_t kChunkElements = 1 << 20;

}  // namespace

int64_t SavedTensor::numel() const {
  return std::accumulate(declaration.shape.begin(), declaration.shape.end(), int64_t{1}, std::multiplies<>());
}

uint64_t SavedTensor::bytes() const {
  return formats::tensor_bytes(declaration.dtype, declaration.shape, declaration.name);
}

uint64_t SavedFile::bytes() const {
  uint64_t sum = 0;
  for (const SavedTensor& tensor : tensors) sum += tensor.bytes();
  return sum;
}

void for_each_chunk(const SavedTensor& tensor, std::vector<std::byte>& buffer,
                    const std::function<void(uint64_t, std::span<const std::byte>)>& sink) {
  const int64_t numel = tensor.numel(), size = formats::dtype_bits(tensor.declaration.dtype) / 8;
  buffer.resize(static_cast<size_t>(std::min(numel, kChunkElements) * size));
  for (int64_t begin = 0; begin < numel; begin += kChunkElements) {
    const int64_t count = std::min(kChunkElements, numel - begin);
    tensor.read(begin, count, buffer.data());
    sink(static_cast<uint64_t>(begin * size), std::span(buffer).first(static_cast<size_t>(count * size)));
  }
}

std::vector<formats::TensorDeclaration> declarations(const std::vector<SavedTensor>& tensors) {
  std::vector<formats::TensorDeclaration> result;
  result.reserve(tensors.size());
  for (const SavedTensor& tensor : tensors) result.push_back(tensor.declaration);
  return result;
}

std::vector<SavedFile> cut_into_files(std::vector<SavedTensor> tensors, uint64_t max_file_bytes) {
  std::vector<SavedFile> files;
  size_t next = 0;
  for (const formats::ShardPlan& shard : formats::plan_shards(declarations(tensors), max_file_bytes)) {
    SavedFile& file = files.emplace_back();
    file.name = shard.file;
    for (size_t i = 0; i < shard.tensors.size(); ++i) file.tensors.push_back(std::move(tensors[next++]));
  }
  return files;
}

void write_saved_file(const std::filesystem::path& directory, const SavedFile& file) {
  formats::SafetensorsWriter writer(directory / file.name, declarations(file.tensors), file.metadata);
  std::vector<std::byte> buffer;
  for (const SavedTensor& tensor : file.tensors)
    for_each_chunk(tensor, buffer, [&](uint64_t offset, std::span<const std::byte> bytes) {
      writer.write_slice(tensor.declaration.name, offset, bytes);
    });
  writer.commit();
}

}  // namespace fathom::checkpoint

#include "checkpoint/init.h"

#include <bit>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "checkpoint/initial_values.h"
#include "checkpoint/model_files.h"
#include "checkpoint/saved_tensor.h"
#include "config/tensor_table.h"

namespace fathom::checkpoint {
namespace {

constexpr uint64_t kSmallFilesBytes = 16 << 20;

void round_to_bf16(const float* values, int64_t count, std::byte* out) {
  auto* bits = reinterpret_cast<uint16_t*>(out);
  parallel_for(0, count, 1 << 18, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      bits[i] = static_cast<uint16_t>((std::bit_cast<uint32_t>(values[i]) + 0x8000u) >> 16);
  });
}

}  // namespace

uint64_t init_checkpoint(const config::ModelConfig& model, formats::Dtype dtype, uint64_t seed,
                         const fs::path& directory, const fs::path& tokenizer) {
  if (dtype != formats::Dtype::F32 && dtype != formats::Dtype::BF16)
    throw UsageError("a random checkpoint of {} is not written by this version: use bf16 or fp32",
                     formats::dtype_name(dtype));
  if (fs::exists(directory / "config.json"))
    throw CheckpointError("{} holds a checkpoint (config.json) already: give another directory or remove it",
                          directory.string());
  const config::TensorTable table(model);
  std::vector<SavedTensor> tensors;
  uint64_t total = 0;
  const auto scratch = std::make_shared<std::vector<float>>();
  for (const config::TensorSpec& spec : table.tensors()) {
    const bool is_float = dtype == formats::Dtype::F32 || spec.role == config::TensorRole::router_bias;
    tensors.push_back({{spec.name, is_float ? formats::Dtype::F32 : formats::Dtype::BF16, spec.shape},
                       [&, spec_pointer = &spec, is_float](int64_t begin, int64_t count, std::byte* out) {
                         if (is_float)
                           return initial_values(*spec_pointer, model.initializer_range, seed, begin, count,
                                                 reinterpret_cast<float*>(out));
                         scratch->resize(static_cast<size_t>(count));
                         initial_values(*spec_pointer, model.initializer_range, seed, begin, count,
                                        scratch->data());
                         round_to_bf16(scratch->data(), count, out);
                       }});
    total += tensors.back().bytes();
  }
  const uint64_t available = free_disk_bytes(directory);
  if (available < total + kSmallFilesBytes)
    throw FileError("{}: too little disk: the checkpoint has {}, {} is free", directory.string(),
                    format_bytes(static_cast<double>(total)), format_bytes(static_cast<double>(available)));

  make_directories(directory);
  Progress progress("init", total, "B");
  std::vector<SavedFile> files = cut_into_files(std::move(tensors), kDefaultShardBytes);
  for (SavedFile& file : files) {
    for (SavedTensor& tensor : file.tensors) {
      const int64_t size = formats::dtype_bits(tensor.declaration.dtype) / 8;
      tensor.read = [&progress, size, read = std::move(tensor.read)](int64_t begin, int64_t count,
                                                                     std::byte* out) {
        read(begin, count, out);
        progress.advance(static_cast<uint64_t>(count * size));
      };
    }
    write_saved_file(directory, file);
  }
  write_model_files(directory, model, dtype, files, tokenizer);
  sync_directory(directory);
  progress.finish();
  return total;
}

}  // namespace fathom::checkpoint

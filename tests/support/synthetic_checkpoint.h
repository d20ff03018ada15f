// A checkpoint of any config and size, written at the speed of the disk: every value is a function of (name, index), so that
// what a test reads back can be computed again. Matrices are of the size that weights have, norms are ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "checkpoint/model_files.h"
#include "checkpoint/saved_tensor.h"
#include "checkpoint/stored_values.h"
#include "config/model_config.h"
#include "config/tensor_table.h"

namespace fathom::test {

// 64 bits of the stream, number `index`: splitmix64's finaliser.
inline uint64_t synthetic_bits(uint64_t key, uint64_t index) {
  uint64_t z = key + index * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// Every e4m3 code but the two that are NaN.
inline uint8_t synthetic_code(uint64_t key, int64_t index) {
  const auto position = static_cast<uint64_t>(index);
  const auto code = static_cast<uint8_t>(synthetic_bits(key, position / 8) >> (position % 8 * 8));
  return (code & 0x7f) == 0x7f ? static_cast<uint8_t>(code ^ 1) : code;
}
// In [2^-14, 2^-13): times codes of some hundred.
inline float synthetic_scale(uint64_t key, int64_t index) {
  return static_cast<float>(0x1p-14 * (1 + uniform(key, static_cast<uint64_t>(index))));
}
// +-[2^-7, 2^-3).
inline bf16 synthetic_bf16(uint64_t key, int64_t index) {
  const auto position = static_cast<uint64_t>(index);
  const auto bits = static_cast<uint16_t>(synthetic_bits(key, position / 4) >> (position % 4 * 16));
  bf16 value;
  value.bits = static_cast<uint16_t>((bits & 0x8000) | (0x3c00 + (bits & 0x01ff)));
  return value;
}

inline uint64_t synthetic_key(const std::string& name) { return stream_key(11, name); }

// The tensor of a model, and its scale where the config says fp8.
inline std::vector<checkpoint::SavedTensor> synthetic_tensors(const config::TensorSpec& spec,
                                                              const config::ModelConfig& config) {
  using formats::Dtype;
  const std::string dtype = config::stored_dtype(spec, config);
  const uint64_t key = synthetic_key(spec.name);
  const auto fill = [](Dtype as, const std::string& name, const std::vector<int64_t>& shape, auto value) {
    return checkpoint::SavedTensor{{name, as, shape}, [value](int64_t begin, int64_t count, std::byte* out) {
                                     for (int64_t i = 0; i < count; ++i) {
                                       const auto element = value(begin + i);
                                       std::memcpy(out + static_cast<size_t>(i) * sizeof element, &element,
                                                   sizeof element);
                                     }
                                   }};
  };
  std::vector<checkpoint::SavedTensor> result;
  if (dtype == "float8_e4m3fn") {
    const std::string scale = spec.name + checkpoint::kScaleSuffix;
    result.push_back(
        fill(Dtype::F8_E4M3, spec.name, spec.shape, [key](int64_t i) { return synthetic_code(key, i); }));
    result.push_back(
        fill(Dtype::F32, scale, *config::scale_shape(spec, config),
             [scale_key = synthetic_key(scale)](int64_t i) { return synthetic_scale(scale_key, i); }));
  } else if (spec.role == config::TensorRole::norm) {
    result.push_back(fill(Dtype::BF16, spec.name, spec.shape, [](int64_t) { return to_bf16(1.0f); }));
  } else if (dtype == "float32") {
    result.push_back(
        fill(Dtype::F32, spec.name, spec.shape, [key](int64_t i) { return synthetic_scale(key, i); }));
  } else {
    result.push_back(
        fill(Dtype::BF16, spec.name, spec.shape, [key](int64_t i) { return synthetic_bf16(key, i); }));
  }
  return result;
}

// The tensors of `config` that `wanted` takes; config.json is `config` as it is. Returns the bytes of the tensors.
inline uint64_t write_synthetic_checkpoint(
    const config::ModelConfig& config, const std::filesystem::path& directory,
    uint64_t max_file_bytes = 1'000'000'000,
    const std::function<bool(const config::TensorSpec&)>& wanted = [](const config::TensorSpec&) {
      return true;
    }) {
  make_directories(directory);
  const config::TensorTable table(config);
  std::vector<checkpoint::SavedTensor> tensors;
  for (const config::TensorSpec& spec : table.tensors())
    if (wanted(spec))
      for (checkpoint::SavedTensor& tensor : synthetic_tensors(spec, config))
        tensors.push_back(std::move(tensor));
  uint64_t bytes = 0;
  const std::vector<checkpoint::SavedFile> files =
      checkpoint::cut_into_files(std::move(tensors), max_file_bytes);
  for (const checkpoint::SavedFile& file : files) {
    checkpoint::write_saved_file(directory, file);
    bytes += file.bytes();
  }
  if (files.size() > 1) checkpoint::write_index(directory, files);
  write_text_file(directory / "config.json", config::to_json(config).dump(2) + "\n");
  return bytes;
}

}  // namespace fathom::test

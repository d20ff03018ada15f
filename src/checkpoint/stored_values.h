// The values of a stored tensor as float, whatever it is stored in.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "formats/sharded_safetensors.h"

namespace fathom::checkpoint {

inline constexpr const char* kScaleSuffix = "_scale_inv";  // of DeepSeek's fp8 scales: `<name>_scale_inv`
inline constexpr int64_t kScaleBlock = 128;                // rows and columns that share one of them

// A tensor of the model by its HF name, whether it lies in the files as it is or as codes and scales.
struct StoredTensor {
  std::vector<int64_t> shape;                   // of the values
  formats::Dtype stored = formats::Dtype::F32;  // I8 and I32: integer codes (quantized_ints.h)
  formats::Dtype values =
      formats::Dtype::F32;  // BF16 of fp8 blocks; of integer codes the dtype of their scales
  std::string file;
  uint64_t bytes = 0;  // of all its parts
};
// nullopt: no such tensor. Throws CheckpointError: parts of an integer matrix missing, or not fitting.
std::optional<StoredTensor> find_stored(const formats::ShardedReader& reader, const std::string& name);

// Elements [begin, begin + count) of row-major order: F64 rounded, F32, F16 and BF16 exact; integers as code * scale in
// float; F8_E4M3 dequantised as value * scale in float, with `<name>_scale_inv` of 128x128 blocks (F32, or F8_E8M0 powers of two; blocks at the edges
// are cut). Uses the threads of base/parallel.h. Throws CheckpointError naming file and tensor: no such tensor, another
// dtype, no scale or one of the wrong shape.
void read_as_float(const formats::ShardedReader& reader, const std::string& name, int64_t begin,
                   int64_t count, float* out);

}  // namespace fathom::checkpoint

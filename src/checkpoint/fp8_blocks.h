// DeepSeek's fp8 matrices: e4m3 codes, and one scale for each 128x128 block (cut at the edges) in
// `<name>_scale_inv`; value = code * scale.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/bfloat16.h"
#include "checkpoint/saved_tensor.h"
#include "checkpoint/tensor_view.h"
#include "checkpoint/weight_error.h"
#include "formats/sharded_safetensors.h"

namespace fathom::checkpoint {

// The scales of an F8_E4M3 tensor. Throws CheckpointError naming file and tensor: none there, or they do not fit.
const formats::ShardedReader::Location& fp8_scales(const formats::ShardedReader& reader,
                                                   const formats::ShardedReader::Location& tensor);

// All of them as float, row-major. Stored as float32 or e8m0 powers of two.
std::vector<float> scale_values(const formats::ShardedReader::Location& scales);

// Elements [begin, begin + count) of row-major order, on this thread; float, then rounded to nearest even for bf16.
void dequantize_blocks(const formats::ShardedReader::Location& tensor,
                       const formats::ShardedReader::Location& scales, int64_t begin, int64_t count,
                       float* out);
void dequantize_blocks(const formats::ShardedReader::Location& tensor,
                       const formats::ShardedReader::Location& scales, int64_t begin, int64_t count,
                       bf16* out);

enum class ScaleFormat {
  float32,  // the largest |value| of the block / 448; 1 for a block of zeros
  ue8m0,    // that, rounded up to a power of two; stored as float32 too, as DeepSeek-V3.1 does
};

// A matrix on its way to a file: the codes under its name, then its scales. Both may be read from several threads.
// Reading throws CheckpointError: a value that is not finite. `error`, where there is one, gets what the codes lose.
std::vector<SavedTensor> quantized(TensorView matrix, ScaleFormat format,
                                   std::shared_ptr<WeightError> error = nullptr);

}  // namespace fathom::checkpoint

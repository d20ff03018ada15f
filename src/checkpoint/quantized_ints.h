// Integer matrices in the layouts of compressed-tensors, on disk and on their way there.
//   int8:  `X.weight` I8 [out, in], `X.weight_scale` [out, 1]
//   int4:  `X.weight_packed` I32 [out, ceil(in / 8)], `X.weight_scale` [out, groups], `X.weight_shape` I64 [2]
// Scales are BF16 or F32 (F16 is read); value = code * scale.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/bfloat16.h"
#include "checkpoint/saved_tensor.h"
#include "checkpoint/tensor_view.h"
#include "checkpoint/weight_error.h"
#include "config/quantization.h"
#include "formats/sharded_safetensors.h"

namespace fathom::checkpoint {

// What a matrix is encoded to.
struct IntFormat {
  config::IntWeights weights;
  formats::Dtype scale_dtype = formats::Dtype::BF16;  // BF16 | F32

  int64_t groups(int64_t columns) const;  // scales a row
  // The scale of a group whose largest |value| is this, a value of scale_dtype, > 0. int8: largest / 127; int4:
  // largest / 7.5, as compressed-tensors' minmax observer has it, for whose -8 there is no 8; an epsilon of 0.
  float scale(float largest) const;
};

// The codes of a matrix, and its scales (values of the format's scale_dtype).
struct IntCodes {
  std::vector<int8_t> codes;  // [out, in]: [-127, 127] or [-8, 7]
  std::vector<float> scales;  // [out, groups]
};

// A matrix on its way to a file, under its HF name ("....weight"), in file order: codes, scales, shape. Without
// `encode`, values are rounded to nearest, chunk by chunk: nothing of the matrix is kept. `encode` is called once, when
// the first chunk is asked for, by whichever thread that is; what it returns is let go when the last chunk has been
// read, so every chunk may be read once. nullopt: round to nearest. `error`, where there is one, gets what the codes
// lose. Reading throws CheckpointError: a value that is not finite, codes of the wrong number.
using EncodeMatrix =
    std::function<std::optional<IntCodes>(const TensorView& matrix, const IntFormat& format)>;
std::vector<SavedTensor> quantized_ints(TensorView matrix, const IntFormat& format, EncodeMatrix encode = {},
                                        std::shared_ptr<WeightError> error = nullptr);

// A stored matrix: views into the map, valid as long as the reader.
struct StoredInts {
  const formats::ShardedReader::Location* codes = nullptr;   // I8 [out, in], or I32 [out, ceil(in / 8)]
  const formats::ShardedReader::Location* scales = nullptr;  // [out, groups]
  int64_t rows = 0, columns = 0;
  config::IntWeights weights;  // has_int8_inputs is not known here: the config says it
};

// Of the HF name "....weight"; nullopt: no such matrix, or stored otherwise. Throws CheckpointError naming file and
// tensor: parts missing or of the wrong shape, a zero point, a permutation.
std::optional<StoredInts> find_stored_ints(const formats::ShardedReader& reader, const std::string& name);

// The HF name that a stored tensor is a part of: "X.weight_packed" -> "X.weight"; nullopt: no such part.
std::optional<std::string> weight_of_part(const std::string& stored_name);

// The tensors that make up the matrix of this HF name: codes, scales, and the shape where they are packed.
std::vector<std::string> int_part_names(const std::string& name, bool is_packed);

// How many values a stored "X.weight_packed" stands for, whatever its scheme: what `X.weight_shape` says, or as many
// 4-bit codes as it has room for.
int64_t packed_parameters(const formats::ShardedReader& reader, const std::string& packed_name);

// Elements [begin, begin + count) of row-major order, on this thread; float, then rounded to nearest even for bf16.
void dequantize_ints(const StoredInts& matrix, int64_t begin, int64_t count, float* out);
void dequantize_ints(const StoredInts& matrix, int64_t begin, int64_t count, bf16* out);

}  // namespace fathom::checkpoint

// A model's tensor as conversions see it: HF name, shape, and elements on demand, wherever they lie and however they are
// stored. A layout (MindFormers', GGUF, a cut of layers) is a function from views to views; nothing is read before a
// file is written, and then chunk by chunk.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/saved_tensor.h"
#include "formats/sharded_safetensors.h"

namespace fathom::checkpoint {

struct TensorView {
  std::string name;
  std::vector<int64_t> shape;
  // What holds its values without loss: the stored dtype; BF16 of fp8 blocks, whose cast to it is defined so; the
  // dtype of the scales of integer codes, as compressed-tensors decompresses them.
  formats::Dtype dtype = formats::Dtype::F32;
  formats::Dtype stored = formats::Dtype::F32;  // as it lies in `file`
  std::string file;                             // for messages
  // Elements [begin, begin + count) of row-major order as F32, BF16, F16 or F64 (from float by rounding to nearest even;
  // the bytes as they are where the stored dtype is asked for); `out` is aligned to its elements. Callable from several
  // threads at once.
  std::function<void(int64_t begin, int64_t count, formats::Dtype as, std::byte* out)> read;
  // Of matrices that do not lie in rows: a block of them at once (view_ops.h reads any view so).
  std::function<void(int64_t row, int64_t rows, int64_t column, int64_t columns, formats::Dtype as,
                     std::byte* out)>
      read_block;
  int64_t granule = 1;  // reading fewer elements at a time, or from elsewhere than its multiples, is slow
  int64_t numel() const;
};

// The values of a stored tensor, integer codes and fp8 blocks included (stored_values.h says which dtypes). Throws
// CheckpointError.
TensorView stored_view(std::shared_ptr<const formats::ShardedReader> reader, const std::string& name);

// Rows (of the first dimension) of another view, in the order given; they must be there.
using RowOrder = std::shared_ptr<const std::vector<int64_t>>;  // the layers of a model share theirs
TensorView select_rows(TensorView view, RowOrder rows);
TensorView select_rows(TensorView view, std::vector<int64_t> rows);

// On its way to a file, in `dtype`.
SavedTensor saved(TensorView view, formats::Dtype dtype);

// count floats -> BF16, F16, F32 or F64 at `out`, to nearest even; NaN stays NaN, what is too large for F16 becomes
// infinite.
void store_floats(const float* values, int64_t count, formats::Dtype as, std::byte* out);

}  // namespace fathom::checkpoint

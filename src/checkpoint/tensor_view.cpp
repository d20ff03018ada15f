#include "checkpoint/tensor_view.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <numeric>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/float16.h"
#include "checkpoint/fp8_blocks.h"
#include "checkpoint/quantized_ints.h"
#include "checkpoint/stored_values.h"
#include "kernels/elementwise.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;

constexpr int64_t kPieceElements = 1 << 14;  // on the stack, and in a core's own cache

template <typename T, typename Convert>
void store(const float* values, int64_t count, std::byte* out, Convert convert) {
  for (int64_t i = 0; i < count; ++i) {
    const T value = convert(values[i]);
    std::memcpy(out + static_cast<size_t>(i) * sizeof value, &value, sizeof value);
  }
}

}  // namespace

int64_t TensorView::numel() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

void store_floats(const float* values, int64_t count, Dtype as, std::byte* out) {
  switch (as) {
    case Dtype::F64:
      return store<double>(values, count, out, [](float x) { return static_cast<double>(x); });
    case Dtype::F32:
      return void(std::memcpy(out, values, static_cast<size_t>(count) * sizeof(float)));
    case Dtype::F16:
      return store<f16>(values, count, out, [](float x) { return to_f16(x); });
    case Dtype::BF16:
      return kernels::convert(values, reinterpret_cast<bf16*>(out), count);
    default:
      throw std::logic_error("no values are stored as " + std::string(formats::dtype_name(as)));
  }
}

TensorView stored_view(std::shared_ptr<const formats::ShardedReader> reader, const std::string& name) {
  const std::optional<StoredTensor> tensor = find_stored(*reader, name);
  if (!tensor) reader->at(name);  // says what is missing where
  TensorView view;
  view.name = name;
  view.shape = tensor->shape;
  view.dtype = tensor->values;
  view.stored = tensor->stored;
  view.file = tensor->file;
  const std::optional<StoredInts> ints = find_stored_ints(*reader, name);
  const formats::ShardedReader::Location* location = reader->find(name);
  const formats::ShardedReader::Location* scales =
      tensor->stored == Dtype::F8_E4M3 ? &fp8_scales(*reader, *location) : nullptr;
  view.read = [reader = std::move(reader), name, stored = location, scales, ints](
                  int64_t begin, int64_t count, Dtype as, std::byte* out) {
    if (stored && stored->entry->dtype == as) {
      const auto size = static_cast<size_t>(formats::dtype_bits(as) / 8);
      std::memcpy(out, stored->bytes().data() + static_cast<size_t>(begin) * size,
                  static_cast<size_t>(count) * size);
      return;
    }
    if (scales && as == Dtype::BF16)
      return dequantize_blocks(*stored, *scales, begin, count, reinterpret_cast<bf16*>(out));
    if (scales && as == Dtype::F32)
      return dequantize_blocks(*stored, *scales, begin, count, reinterpret_cast<float*>(out));
    if (ints && as == Dtype::BF16) return dequantize_ints(*ints, begin, count, reinterpret_cast<bf16*>(out));
    if (ints && as == Dtype::F32) return dequantize_ints(*ints, begin, count, reinterpret_cast<float*>(out));
    if (stored && stored->entry->dtype == Dtype::BF16 && as == Dtype::F32) {
      const auto* from = reinterpret_cast<const bf16*>(stored->bytes().data()) + begin;
      if (reinterpret_cast<uintptr_t>(from) % alignof(bf16) == 0)  // a file need not align its tensors
        return kernels::convert(from, reinterpret_cast<float*>(out), count);
    }
    std::array<float, kPieceElements> values;
    const auto size = static_cast<size_t>(formats::dtype_bits(as) / 8);
    for (int64_t done = 0; done < count; done += kPieceElements) {
      const int64_t piece = std::min(kPieceElements, count - done);
      read_as_float(*reader, stored->entry->name, begin + done, piece, values.data());
      store_floats(values.data(), piece, as, out + static_cast<size_t>(done) * size);
    }
  };
  return view;
}

TensorView select_rows(TensorView view, RowOrder rows) {
  const int64_t width = view.shape[0] == 0 ? 0 : view.numel() / view.shape[0];
  TensorView result = view;
  result.shape[0] = static_cast<int64_t>(rows->size());
  result.read_block = nullptr;
  result.read = [read = std::move(view.read), rows = std::move(rows), width](int64_t begin, int64_t count,
                                                                             Dtype as, std::byte* out) {
    const auto size = static_cast<size_t>(formats::dtype_bits(as) / 8);
    for (int64_t i = begin, last = begin + count; i < last;) {
      const int64_t row = i / width;
      const int64_t* from = rows->data() + row;
      int64_t end = (row + 1) * width;  // of the rows that follow each other in both
      for (int64_t n = 1; end < last && from[n] == from[0] + n; ++n) end += width;
      end = std::min(last, end);
      read(from[0] * width + i % width, end - i, as, out + static_cast<size_t>(i - begin) * size);
      i = end;
    }
  };
  return result;
}

TensorView select_rows(TensorView view, std::vector<int64_t> rows) {
  return select_rows(std::move(view), std::make_shared<const std::vector<int64_t>>(std::move(rows)));
}

SavedTensor saved(TensorView view, Dtype dtype) {
  SavedTensor tensor{{std::move(view.name), dtype, std::move(view.shape)}, nullptr, view.granule};
  tensor.read = [read = std::move(view.read), dtype](int64_t begin, int64_t count, std::byte* out) {
    read(begin, count, dtype, out);
  };
  return tensor;
}

}  // namespace fathom::checkpoint

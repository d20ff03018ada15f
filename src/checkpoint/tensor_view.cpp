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
  TensorView view{name, tensor->shape, tensor->values, tensor->stored, tensor->file, nullptr};
  view.read = [reader = std::move(reader), name](int64_t begin, int64_t count, Dtype as, std::byte* out) {
    const formats::ShardedReader::Location* stored = reader->find(name);
    if (stored && stored->entry->dtype == as) {
      const auto size = static_cast<size_t>(formats::dtype_bits(as) / 8);
      std::memcpy(out, stored->bytes().data() + static_cast<size_t>(begin) * size,
                  static_cast<size_t>(count) * size);
      return;
    }
    if (as == Dtype::BF16) {
      auto* const values = reinterpret_cast<bf16*>(out);
      if (stored && stored->entry->dtype == Dtype::F8_E4M3)
        return dequantize_blocks(*stored, fp8_scales(*reader, *stored), begin, count, values);
      if (const std::optional<StoredInts> ints = find_stored_ints(*reader, name))
        return dequantize_ints(*ints, begin, count, values);
    }
    std::array<float, kPieceElements> values;
    const auto size = static_cast<size_t>(formats::dtype_bits(as) / 8);
    for (int64_t done = 0; done < count; done += kPieceElements) {
      const int64_t piece = std::min(kPieceElements, count - done);
      read_as_float(*reader, name, begin + done, piece, values.data());
      store_floats(values.data(), piece, as, out + static_cast<size_t>(done) * size);
    }
  };
  return view;
}

TensorView select_rows(TensorView view, std::vector<int64_t> rows) {
  const int64_t width = view.shape[0] == 0 ? 0 : view.numel() / view.shape[0];
  TensorView result = view;
  result.shape[0] = static_cast<int64_t>(rows.size());
  result.read = [read = std::move(view.read), rows = std::move(rows), width](int64_t begin, int64_t count,
                                                                             Dtype as, std::byte* out) {
    const auto size = static_cast<size_t>(formats::dtype_bits(as) / 8);
    for (int64_t i = begin, last = begin + count; i < last;) {
      const int64_t row = i / width, end = std::min(last, (row + 1) * width);
      read(rows[static_cast<size_t>(row)] * width + i % width, end - i, as,
           out + static_cast<size_t>(i - begin) * size);
      i = end;
    }
  };
  return result;
}

SavedTensor saved(TensorView view, Dtype dtype) {
  SavedTensor tensor{{std::move(view.name), dtype, std::move(view.shape)}, nullptr};
  tensor.read = [read = std::move(view.read), dtype](int64_t begin, int64_t count, std::byte* out) {
    read(begin, count, dtype, out);
  };
  return tensor;
}

}  // namespace fathom::checkpoint

#include "checkpoint/fp8_blocks.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "checkpoint/stored_values.h"
#include "kernels/fp8.h"
#include "kernels/int_codes.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using Location = formats::ShardedReader::Location;

constexpr float kSmallestScale = 0x1p-126f;
constexpr int64_t kReadElements = 1 << 14;  // at a time: as floats in a core's own cache

int64_t blocks(int64_t extent) { return (extent + kScaleBlock - 1) / kScaleBlock; }

float scale_at(const Location& scales, int64_t index) {
  const std::byte* bytes = scales.bytes().data();
  if (scales.entry->dtype == Dtype::F8_E8M0) return std::ldexp(1.0f, static_cast<int>(bytes[index]) - 127);
  float value;
  std::memcpy(&value, bytes + 4 * index, 4);
  return value;
}

template <typename T>
void dequantize(const Location& tensor, const Location& scales, int64_t begin, int64_t count, T* out) {
  const auto* codes = reinterpret_cast<const uint8_t*>(tensor.bytes().data());
  const int64_t columns = tensor.entry->shape[1], scale_columns = scales.entry->shape[1];
  for (int64_t i = begin, last = begin + count; i < last;) {
    const int64_t row = i / columns, block = i % columns / kScaleBlock;
    const int64_t end = std::min(last, row * columns + std::min(columns, (block + 1) * kScaleBlock));
    const float scale = scale_at(scales, row / kScaleBlock * scale_columns + block);
    kernels::dequantize_fp8(codes + i, scale, end - i, out + (i - begin));
    i = end;
  }
}

float scale_of(float largest, ScaleFormat format) {
  if (largest == 0) return 1;
  const float scale = std::max(largest / kernels::kLargestE4m3, kSmallestScale);
  if (format == ScaleFormat::float32) return scale;
  int exponent;
  const float fraction = std::frexp(scale, &exponent);
  return std::ldexp(1.0f, fraction == 0.5f ? exponent - 1 : exponent);
}

// Scales are made when a row of blocks is first asked for, by whichever thread that is.
class QuantizedMatrix {
 public:
  QuantizedMatrix(TensorView matrix, ScaleFormat format, std::shared_ptr<WeightError> error)
      : matrix_(std::move(matrix)),
        format_(format),
        error_(std::move(error)),
        columns_(matrix_.shape[1]),
        scale_columns_(blocks(columns_)),
        scales_(static_cast<size_t>(blocks(matrix_.shape[0]) * scale_columns_)),
        is_made_(std::make_unique<std::once_flag[]>(static_cast<size_t>(blocks(matrix_.shape[0])))) {}

  void read_codes(int64_t begin, int64_t count, uint8_t* codes) {
    ErrorSums sums;
    std::vector<float> decoded(error_ ? static_cast<size_t>(columns_) : 0);
    for_each_row(begin, begin + count, [&](int64_t first, int64_t end, const float* values) {
      const int64_t row = first / columns_;
      const float* scales = band_scales(row / kScaleBlock);
      for (int64_t i = first; i < end;) {
        const int64_t block = (i - row * columns_) / kScaleBlock;
        const int64_t stop = std::min(end, row * columns_ + (block + 1) * kScaleBlock);
        kernels::quantize_fp8(values + (i - first), scales[block], stop - i, codes + (i - begin));
        if (error_)
          kernels::dequantize_fp8(codes + (i - begin), scales[block], stop - i, decoded.data() + (i - first));
        i = stop;
      }
      if (error_) sums.add(kernels::code_error(values, decoded.data(), end - first), end - first);
    });
    if (error_) error_->add(sums);
  }

  void read_scales(int64_t begin, int64_t count, std::byte* out) {
    for (int64_t i = begin; i < begin + count; ++i)
      std::memcpy(out + 4 * (i - begin), band_scales(i / scale_columns_) + i % scale_columns_, 4);
  }

 private:
  // Calls use(first, end, values) for the rows, or parts of them, that elements [begin, end) consist of; several rows are read
  // at a time.
  template <typename Use>
  void for_each_row(int64_t begin, int64_t end, const Use& use) const {
    const int64_t wanted = std::clamp(matrix_.granule, kReadElements, kScaleBlock * columns_ + kReadElements);
    const int64_t step = std::max(columns_, wanted / std::max<int64_t>(1, columns_) * columns_);
    std::vector<float> values(static_cast<size_t>(std::min(step, end - begin)));
    for (int64_t at = begin; at < end;) {
      const int64_t stop = std::min(end, at / columns_ * columns_ + step);
      matrix_.read(at, stop - at, Dtype::F32, reinterpret_cast<std::byte*>(values.data()));
      for (int64_t row = at; row < stop;) {
        const int64_t row_end = std::min(stop, (row / columns_ + 1) * columns_);
        use(row, row_end, values.data() + (row - at));
        row = row_end;
      }
      at = stop;
    }
  }

  const float* band_scales(int64_t band) {
    std::call_once(is_made_[static_cast<size_t>(band)], [&] { make_scales(band); });
    return scales_.data() + band * scale_columns_;
  }

  void make_scales(int64_t band) {
    float* scales = scales_.data() + band * scale_columns_;
    std::fill(scales, scales + scale_columns_, 0.0f);
    const int64_t last_row = std::min(matrix_.shape[0], (band + 1) * kScaleBlock);
    for_each_row(
        band * kScaleBlock * columns_, last_row * columns_, [&](int64_t first, int64_t, const float* values) {
          for (int64_t block = 0; block < scale_columns_; ++block) {
            const int64_t from = block * kScaleBlock, count = std::min(kScaleBlock, columns_ - from);
            const float largest = kernels::absolute_max(values + from, count);
            if (!std::isfinite(largest))
              throw CheckpointError("tensor {} holds NaN or infinity in row {}, which fp8 blocks cannot hold",
                                    matrix_.name, first / columns_);
            scales[block] = std::max(scales[block], largest);
          }
        });
    for (int64_t block = 0; block < scale_columns_; ++block) scales[block] = scale_of(scales[block], format_);
  }

  TensorView matrix_;
  ScaleFormat format_;
  std::shared_ptr<WeightError> error_;
  int64_t columns_, scale_columns_;
  std::vector<float> scales_;
  std::unique_ptr<std::once_flag[]> is_made_;  // for each row of blocks
};

}  // namespace

const Location& fp8_scales(const formats::ShardedReader& reader, const Location& tensor) {
  const std::string &name = tensor.entry->name, file = tensor.file->path().string();
  const Location* scale = reader.find(name + kScaleSuffix);
  if (!scale)
    throw CheckpointError("{}: tensor {} is float8_e4m3 but {}{} is missing", file, name, name, kScaleSuffix);
  const std::vector<int64_t>&shape = tensor.entry->shape, &scales = scale->entry->shape;
  const bool fits = shape.size() == 2 && scales.size() == 2 && scales[0] == blocks(shape[0]) &&
                    scales[1] == blocks(shape[1]) &&
                    (scale->entry->dtype == Dtype::F32 || scale->entry->dtype == Dtype::F8_E8M0);
  if (!fits)
    throw CheckpointError("{}: {}{} is {} of shape [{}], which does not fit 128x128 blocks of {} [{}]", file,
                          name, kScaleSuffix, formats::dtype_name(scale->entry->dtype),
                          fmt::join(scales, ", "), name, fmt::join(shape, ", "));
  return *scale;
}

std::vector<float> scale_values(const Location& scales) {
  std::vector<float> values;
  for (int64_t i = 0, count = scales.entry->numel(); i < count; ++i) values.push_back(scale_at(scales, i));
  return values;
}

void dequantize_blocks(const Location& tensor, const Location& scales, int64_t begin, int64_t count,
                       float* out) {
  dequantize(tensor, scales, begin, count, out);
}

void dequantize_blocks(const Location& tensor, const Location& scales, int64_t begin, int64_t count,
                       bf16* out) {
  dequantize(tensor, scales, begin, count, out);
}

std::vector<SavedTensor> quantized(TensorView matrix, ScaleFormat format,
                                   std::shared_ptr<WeightError> error) {
  FATHOM_ASSERT(matrix.shape.size() == 2);
  const std::string name = matrix.name;
  const std::vector<int64_t> shape = matrix.shape;
  // As many rows as are read at once, so that a row of blocks is not begun in one piece and ended in another.
  const int64_t granule = std::max<int64_t>(1, std::min(matrix.granule, kScaleBlock * shape[1]));
  const auto state = std::make_shared<QuantizedMatrix>(std::move(matrix), format, std::move(error));
  SavedTensor codes{{name, Dtype::F8_E4M3, shape},
                    [state](int64_t begin, int64_t count, std::byte* out) {
                      state->read_codes(begin, count, reinterpret_cast<uint8_t*>(out));
                    },
                    granule};
  SavedTensor scales{
      {name + kScaleSuffix, Dtype::F32, {blocks(shape[0]), blocks(shape[1])}},
      [state](int64_t begin, int64_t count, std::byte* out) { state->read_scales(begin, count, out); }};
  std::vector<SavedTensor> result;
  result.push_back(std::move(codes));
  result.push_back(std::move(scales));
  return result;
}

}  // namespace fathom::checkpoint

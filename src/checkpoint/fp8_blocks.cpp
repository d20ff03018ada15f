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
    std::vector<float> values(static_cast<size_t>(std::min(count, columns_))), decoded(values.size());
    ErrorSums sums;
    for (int64_t i = begin, last = begin + count; i < last;) {
      const int64_t row = i / columns_, end = std::min(last, (row + 1) * columns_);
      matrix_.read(i, end - i, Dtype::F32, reinterpret_cast<std::byte*>(values.data()));
      const float* scales = band_scales(row / kScaleBlock);
      const int64_t from = i;
      while (i < end) {
        const int64_t block = i % columns_ / kScaleBlock;
        const int64_t stop = std::min(end, row * columns_ + (block + 1) * kScaleBlock);
        kernels::quantize_fp8(values.data() + (i - from), scales[block], stop - i, codes + (i - begin));
        if (error_)
          kernels::dequantize_fp8(codes + (i - begin), scales[block], stop - i, decoded.data() + (i - from));
        i = stop;
      }
      if (error_) sums.add(kernels::code_error(values.data(), decoded.data(), end - from), end - from);
    }
    if (error_) error_->add(sums);
  }

  void read_scales(int64_t begin, int64_t count, std::byte* out) {
    for (int64_t i = begin; i < begin + count; ++i)
      std::memcpy(out + 4 * (i - begin), band_scales(i / scale_columns_) + i % scale_columns_, 4);
  }

 private:
  const float* band_scales(int64_t band) {
    std::call_once(is_made_[static_cast<size_t>(band)], [&] { make_scales(band); });
    return scales_.data() + band * scale_columns_;
  }

  void make_scales(int64_t band) {
    float* scales = scales_.data() + band * scale_columns_;
    std::fill(scales, scales + scale_columns_, 0.0f);
    std::vector<float> values(static_cast<size_t>(columns_));
    const int64_t last_row = std::min(matrix_.shape[0], (band + 1) * kScaleBlock);
    for (int64_t row = band * kScaleBlock; row < last_row; ++row) {
      matrix_.read(row * columns_, columns_, Dtype::F32, reinterpret_cast<std::byte*>(values.data()));
      for (int64_t block = 0; block < scale_columns_; ++block) {
        const int64_t from = block * kScaleBlock, count = std::min(kScaleBlock, columns_ - from);
        const float largest = kernels::absolute_max(values.data() + from, count);
        if (!std::isfinite(largest))
          throw CheckpointError("tensor {} holds NaN or infinity in row {}, which fp8 blocks cannot hold",
                                matrix_.name, row);
        scales[block] = std::max(scales[block], largest);
      }
    }
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
  const auto state = std::make_shared<QuantizedMatrix>(std::move(matrix), format, std::move(error));
  SavedTensor codes{{name, Dtype::F8_E4M3, shape}, [state](int64_t begin, int64_t count, std::byte* out) {
                      state->read_codes(begin, count, reinterpret_cast<uint8_t*>(out));
                    }};
  SavedTensor scales{
      {name + kScaleSuffix, Dtype::F32, {blocks(shape[0]), blocks(shape[1])}},
      [state](int64_t begin, int64_t count, std::byte* out) { state->read_scales(begin, count, out); }};
  std::vector<SavedTensor> result;
  result.push_back(std::move(codes));
  result.push_back(std::move(scales));
  return result;
}

}  // namespace fathom::checkpoint

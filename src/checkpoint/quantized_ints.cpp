#include "checkpoint/quantized_ints.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "base/float16.h"
#include "kernels/fp8.h"
#include "kernels/int_codes.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using formats::ShardedReader;

constexpr int64_t kCodesAWord = 8;  // of 4 bits in an I32
constexpr int64_t kPieceCodes = 4096;

int64_t words(int64_t columns) { return (columns + kCodesAWord - 1) / kCodesAWord; }

// "X.weight" -> "X."
std::string module_prefix(const std::string& weight) {
  return weight.substr(0, weight.size() - std::strlen("weight"));
}

class IntMatrix {
 public:
  IntMatrix(TensorView matrix, const IntFormat& format, EncodeMatrix encode,
            std::shared_ptr<WeightError> error)
      : matrix_(std::move(matrix)),
        format_(format),
        encode_(std::move(encode)),
        error_(std::move(error)),
        rows_(matrix_.shape[0]),
        columns_(matrix_.shape[1]),
        groups_(format.groups(columns_)),
        group_(columns_ / std::max<int64_t>(1, groups_)),
        unread_(rows_ * (columns_ + groups_)) {}

  int64_t groups() const { return groups_; }

  // Codes of row-major elements.
  void read_codes(int64_t begin, int64_t count, int8_t* out) {
    Buffers buffers(columns_, groups_);
    ErrorSums sums;
    for (int64_t i = begin, last = begin + count; i < last;) {
      const int64_t row = i / columns_, end = std::min(last, (row + 1) * columns_);
      code_row(row, i - row * columns_, end - row * columns_, buffers, sums, out + (i - begin));
      i = end;
    }
    finish(count, sums);
  }

  // Words of row-major order; the codes behind a row's end are 0.
  void read_words(int64_t begin, int64_t count, std::byte* out) {
    Buffers buffers(columns_, groups_);
    std::vector<int8_t> codes(static_cast<size_t>(columns_));
    ErrorSums sums;
    const int64_t row_words = words(columns_);
    std::memset(out, 0, static_cast<size_t>(count) * 4);
    int64_t elements = 0;
    for (int64_t i = begin, last = begin + count; i < last;) {
      const int64_t row = i / row_words, end = std::min(last, (row + 1) * row_words);
      const int64_t from = (i - row * row_words) * kCodesAWord,
                    to = std::min(columns_, (end - row * row_words) * kCodesAWord);
      code_row(row, from, to, buffers, sums, codes.data());
      kernels::pack_int4(codes.data(), to - from, reinterpret_cast<uint8_t*>(out + (i - begin) * 4));
      elements += to - from;
      i = end;
    }
    finish(elements, sums);
  }

  void read_scales(int64_t begin, int64_t count, std::byte* out) {
    Buffers buffers(columns_, groups_);
    const auto size = static_cast<size_t>(formats::dtype_bits(format_.scale_dtype) / 8);
    for (int64_t i = begin, last = begin + count; i < last;) {
      const int64_t row = i / groups_, end = std::min(last, (row + 1) * groups_);
      const float* scales = row_scales(row, buffers);
      store_floats(scales + (i - row * groups_), end - i, format_.scale_dtype,
                   out + static_cast<size_t>(i - begin) * size);
      i = end;
    }
    finish(count, {});
  }

 private:
  struct Buffers {
    Buffers(int64_t columns, int64_t groups)
        : values(static_cast<size_t>(columns)),
          decoded(static_cast<size_t>(columns)),
          scales(static_cast<size_t>(groups)) {}
    std::vector<float> values, decoded, scales;
  };

  const IntCodes* encoded() {
    if (!encode_) return nullptr;
    std::call_once(is_encoded_, [&] {
      codes_ = encode_(matrix_, format_);
      if (codes_ && (codes_->codes.size() != static_cast<size_t>(rows_ * columns_) ||
                     codes_->scales.size() != static_cast<size_t>(rows_ * groups_)))
        throw CheckpointError("tensor {}: {} codes and {} scales were made, its shape [{}] wants {} and {}",
                              matrix_.name, codes_->codes.size(), codes_->scales.size(),
                              fmt::join(matrix_.shape, ", "), rows_ * columns_, rows_ * groups_);
    });
    return codes_ ? &*codes_ : nullptr;
  }

  void read_values(int64_t row, int64_t from, int64_t to, float* out) const {
    matrix_.read(row * columns_ + from, to - from, Dtype::F32, reinterpret_cast<std::byte*>(out));
  }

  // The row's scales; without codes made elsewhere, its values lie in the buffer then.
  const float* row_scales(int64_t row, Buffers& buffers) {
    if (const IntCodes* codes = encoded()) return codes->scales.data() + row * groups_;
    read_values(row, 0, columns_, buffers.values.data());
    for (int64_t g = 0; g < groups_; ++g) {
      const float largest = kernels::absolute_max(buffers.values.data() + g * group_, group_);
      if (!std::isfinite(largest))
        throw CheckpointError("{}: tensor {} holds NaN or infinity in row {}, which integers cannot hold",
                              matrix_.file, matrix_.name, row);
      buffers.scales[static_cast<size_t>(g)] = format_.scale(largest);
    }
    return buffers.scales.data();
  }

  // Columns [from, to) of a row.
  void code_row(int64_t row, int64_t from, int64_t to, Buffers& buffers, ErrorSums& sums, int8_t* out) {
    const float* scales = row_scales(row, buffers);
    const IntCodes* codes = encoded();
    if (codes) {
      std::memcpy(out, codes->codes.data() + row * columns_ + from, static_cast<size_t>(to - from));
      if (error_) read_values(row, from, to, buffers.values.data() + from);
    }
    for (int64_t i = from; i < to;) {
      const int64_t g = i / group_, end = std::min(to, (g + 1) * group_);
      const float scale = scales[g];
      int8_t* here = out + (i - from);
      if (!codes && format_.weights.bits == 8)
        kernels::quantize_int8(buffers.values.data() + i, scale, end - i, here);
      else if (!codes)
        kernels::quantize_int4(buffers.values.data() + i, scale, end - i, here);
      if (error_) kernels::dequantize_int(here, scale, end - i, buffers.decoded.data() + i);
      i = end;
    }
    if (error_)
      sums.add(kernels::code_error(buffers.values.data() + from, buffers.decoded.data() + from, to - from),
               to - from);
  }

  // Counts what has been read, and lets go what no one will ask for again.
  void finish(int64_t elements, const ErrorSums& sums) {
    if (error_) error_->add(sums);
    if (unread_.fetch_sub(elements) == elements) codes_.reset();
  }

  TensorView matrix_;
  IntFormat format_;
  EncodeMatrix encode_;
  std::shared_ptr<WeightError> error_;
  int64_t rows_, columns_, groups_, group_;
  std::atomic<int64_t> unread_;
  std::once_flag is_encoded_;
  std::optional<IntCodes> codes_;
};

float scale_at(const StoredInts& matrix, int64_t index) {
  const std::byte* bytes = matrix.scales->bytes().data();
  const auto load = [&](auto value) {
    std::memcpy(&value, bytes + static_cast<size_t>(index) * sizeof value, sizeof value);
    return value;
  };
  switch (matrix.scales->entry->dtype) {
    case Dtype::BF16:
      return to_float(load(bf16{}));
    case Dtype::F16:
      return to_float(load(f16{}));
    default:
      return load(float{});
  }
}

template <typename T>
void dequantize(const StoredInts& matrix, int64_t begin, int64_t count, T* out) {
  const std::byte* bytes = matrix.codes->bytes().data();
  const int64_t columns = matrix.columns,
                group = matrix.weights.group_size > 0 ? matrix.weights.group_size : columns,
                groups = columns / group;
  std::array<int8_t, kPieceCodes> piece;
  for (int64_t i = begin, last = begin + count; i < last;) {
    const int64_t row = i / columns, column = i - row * columns;
    int64_t end = std::min(last, row * columns + (column / group + 1) * group);
    const auto* codes = reinterpret_cast<const int8_t*>(bytes) + i;
    if (matrix.weights.is_packed) {
      end = std::min(end, i + kPieceCodes);
      kernels::unpack_int4(reinterpret_cast<const uint8_t*>(bytes) + row * words(columns) * 4, column,
                           end - i, piece.data());
      codes = piece.data();
    }
    kernels::dequantize_int(codes, scale_at(matrix, row * groups + column / group), end - i,
                            out + (i - begin));
    i = end;
  }
}

// The shape that a `weight_shape` tensor holds.
std::vector<int64_t> read_shape(const ShardedReader::Location& tensor) {
  const std::byte* bytes = tensor.bytes().data();
  std::vector<int64_t> shape;
  if (tensor.entry->shape != std::vector<int64_t>{2}) return shape;
  for (size_t i = 0; i < 2; ++i) {
    int64_t wide = 0;
    int32_t narrow = 0;
    if (tensor.entry->dtype == Dtype::I64) {
      std::memcpy(&wide, bytes + 8 * i, 8);
    } else if (tensor.entry->dtype == Dtype::I32) {
      std::memcpy(&narrow, bytes + 4 * i, 4);
      wide = narrow;
    } else {
      return {};
    }
    if (wide < 0 || wide > INT32_MAX) return {};
    shape.push_back(wide);
  }
  return shape;
}

[[noreturn]] void refuse(const ShardedReader::Location& tensor, const std::string& problem) {
  throw CheckpointError("{}: tensor {} {}", tensor.file->path().string(), tensor.entry->name, problem);
}

void find_shape(const ShardedReader& reader, const std::string& prefix, StoredInts& matrix) {
  const std::vector<int64_t>& stored = matrix.codes->entry->shape;
  const bool is_matrix = stored.size() == 2 && stored[0] > 0 && stored[1] > 0;
  if (!is_matrix)
    refuse(*matrix.codes, fmt::format("has shape [{}], not that of a matrix", fmt::join(stored, ", ")));
  matrix.rows = stored[0];
  matrix.columns = stored[1];
  if (!matrix.weights.is_packed) return;
  const ShardedReader::Location* shape = reader.find(prefix + "weight_shape");
  if (!shape) refuse(*matrix.codes, fmt::format("lies there without {}weight_shape", prefix));
  const std::vector<int64_t> sides = read_shape(*shape);
  const bool fits =
      sides.size() == 2 && sides[0] == stored[0] && sides[1] > 0 && words(sides[1]) == stored[1];
  if (!fits)
    refuse(*shape, fmt::format("says [{}], which does not fit {} of shape [{}]: eight 4-bit codes in each",
                               fmt::join(sides, ", "), matrix.codes->entry->name, fmt::join(stored, ", ")));
  matrix.columns = sides[1];
}

void find_scales(const ShardedReader& reader, const std::string& prefix, StoredInts& matrix) {
  matrix.scales = reader.find(prefix + "weight_scale");
  if (!matrix.scales) refuse(*matrix.codes, fmt::format("lies there without {}weight_scale", prefix));
  const formats::TensorEntry& scales = *matrix.scales->entry;
  std::vector<int64_t> shape = scales.shape;
  if (shape.size() == 1) shape.push_back(1);
  const bool has_dtype =
      scales.dtype == Dtype::BF16 || scales.dtype == Dtype::F32 || scales.dtype == Dtype::F16;
  const bool fits = has_dtype && shape.size() == 2 && shape[0] == matrix.rows && shape[1] > 0 &&
                    matrix.columns % shape[1] == 0;
  if (!fits)
    refuse(*matrix.scales, fmt::format("is {} of shape [{}], which gives no scales to {} of [{}, {}]",
                                       formats::dtype_name(scales.dtype), fmt::join(scales.shape, ", "),
                                       matrix.codes->entry->name, matrix.rows, matrix.columns));
  matrix.weights.group_size = shape[1] == 1 ? -1 : matrix.columns / shape[1];
}

}  // namespace

int64_t IntFormat::groups(int64_t columns) const {
  return weights.group_size > 0 ? columns / weights.group_size : 1;
}

float IntFormat::scale(float largest) const {
  const bool is_narrow = scale_dtype == Dtype::BF16;
  float scale = largest / (weights.bits == 8 ? 127.0f : 7.5f);
  if (is_narrow) scale = to_float(to_bf16(scale));
  // The epsilons of the dtypes, as compressed-tensors has it.
  return scale != 0 ? scale : is_narrow ? 0x1p-7f : 0x1p-23f;
}

std::vector<SavedTensor> quantized_ints(TensorView matrix, const IntFormat& format, EncodeMatrix encode,
                                        std::shared_ptr<WeightError> error) {
  FATHOM_ASSERT(matrix.shape.size() == 2 && matrix.name.ends_with(".weight"));
  FATHOM_ASSERT(format.weights.group_size <= 0 || matrix.shape[1] % format.weights.group_size == 0);
  const std::string name = matrix.name, prefix = module_prefix(name);
  const std::vector<int64_t> shape = matrix.shape;
  const auto state =
      std::make_shared<IntMatrix>(std::move(matrix), format, std::move(encode), std::move(error));
  std::vector<SavedTensor> result;
  if (format.weights.is_packed) {
    result.push_back(
        {{prefix + "weight_packed", Dtype::I32, {shape[0], words(shape[1])}},
         [state](int64_t begin, int64_t count, std::byte* out) { state->read_words(begin, count, out); }});
  } else {
    result.push_back({{name, Dtype::I8, shape}, [state](int64_t begin, int64_t count, std::byte* out) {
                        state->read_codes(begin, count, reinterpret_cast<int8_t*>(out));
                      }});
  }
  result.push_back(
      {{prefix + "weight_scale", format.scale_dtype, {shape[0], state->groups()}},
       [state](int64_t begin, int64_t count, std::byte* out) { state->read_scales(begin, count, out); }});
  if (format.weights.is_packed)
    result.push_back(
        {{prefix + "weight_shape", Dtype::I64, {2}}, [shape](int64_t begin, int64_t count, std::byte* out) {
           std::memcpy(out, shape.data() + begin, static_cast<size_t>(count) * 8);
         }});
  return result;
}

std::optional<StoredInts> find_stored_ints(const ShardedReader& reader, const std::string& name) {
  if (!name.ends_with(".weight")) return std::nullopt;
  const std::string prefix = module_prefix(name);
  StoredInts matrix;
  matrix.codes = reader.find(name);
  if (matrix.codes && matrix.codes->entry->dtype != Dtype::I8) return std::nullopt;
  if (!matrix.codes) {
    matrix.codes = reader.find(prefix + "weight_packed");
    if (!matrix.codes) return std::nullopt;
    if (matrix.codes->entry->dtype != Dtype::I32)
      refuse(*matrix.codes, fmt::format("is {}, not I32", formats::dtype_name(matrix.codes->entry->dtype)));
    matrix.weights.is_packed = true;
    matrix.weights.bits = 4;
  }
  for (const char* part : {"weight_zero_point", "weight_g_idx"})
    if (const ShardedReader::Location* other = reader.find(prefix + part))
      refuse(*other, "is of an asymmetric or permuted scheme, which is not read here");
  find_shape(reader, prefix, matrix);
  find_scales(reader, prefix, matrix);
  return matrix;
}

std::optional<std::string> weight_of_part(const std::string& stored_name) {
  for (const std::string_view part : {".weight_packed", ".weight_scale", ".weight_shape"})
    if (stored_name.ends_with(part))
      return stored_name.substr(0, stored_name.size() - part.size()) + ".weight";
  return std::nullopt;
}

int64_t packed_parameters(const ShardedReader& reader, const std::string& packed_name) {
  const ShardedReader::Location& packed = reader.at(packed_name);
  const std::string prefix = packed_name.substr(0, packed_name.rfind('.') + 1);
  if (const ShardedReader::Location* shape = reader.find(prefix + "weight_shape"))
    if (const std::vector<int64_t> sides = read_shape(*shape); sides.size() == 2) return sides[0] * sides[1];
  return packed.entry->numel() * formats::dtype_bits(packed.entry->dtype) / 4;
}

std::vector<std::string> int_part_names(const std::string& name, bool is_packed) {
  const std::string prefix = module_prefix(name);
  if (!is_packed) return {name, prefix + "weight_scale"};
  return {prefix + "weight_packed", prefix + "weight_scale", prefix + "weight_shape"};
}

void dequantize_ints(const StoredInts& matrix, int64_t begin, int64_t count, float* out) {
  dequantize(matrix, begin, count, out);
}

void dequantize_ints(const StoredInts& matrix, int64_t begin, int64_t count, bf16* out) {
  dequantize(matrix, begin, count, out);
}

}  // namespace fathom::checkpoint

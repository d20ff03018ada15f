#include "checkpoint/mindformers_w8a8.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "base/bfloat16.h"
#include "base/error.h"
#include "checkpoint/stored_values.h"

namespace fathom::checkpoint {
namespace {

using config::TensorRole;
using formats::Dtype;
using formats::ShardedReader;
using Location = ShardedReader::Location;

constexpr const char* kStatic = "W8A8";
constexpr const char* kDynamic = "W8A8_DYNAMIC";

// Names that the same thing has: as it is written here, then as loaders call it.
constexpr const char* kCodes[] = {"_layer.weight", "weight"};
constexpr const char* kDequantScales[] = {"_layer.matmul.dequant_scale", "matmul.dequant_scale", "deq_scale"};
constexpr const char* kWeightScales[] = {"_layer.matmul.weight_scale", "matmul.weight_scale", "w_scale",
                                         "scale"};
constexpr const char* kInputScales[] = {"quant_op.input_scale", "input_scale"};
// Of no use to whoever wants the weights.
constexpr const char* kOthers[] = {"_layer.matmul.quant_bias",
                                   "matmul.quant_bias",
                                   "quant_bias",
                                   "quant_op.input_zp",
                                   "input_zp",
                                   "input_offset",
                                   "quant_op.beta",
                                   "beta",
                                   "_layer.matmul.weight_offset",
                                   "matmul.weight_offset",
                                   "w_offset"};

std::string prefix_of(const std::string& name) {
  constexpr std::string_view kEnd = "weight";
  FATHOM_ASSERT(name.ends_with("." + std::string(kEnd)));
  return name.substr(0, name.size() - kEnd.size());
}

// Elements [begin, begin + count) of a tensor made as a whole, at once in memory.
template <typename T>
SavedTensor small_tensor(std::string name, Dtype dtype, std::vector<T> values) {
  SavedTensor tensor{{std::move(name), dtype, {static_cast<int64_t>(values.size())}}, nullptr};
  tensor.read = [values = std::move(values)](int64_t begin, int64_t count, std::byte* out) {
    std::memcpy(out, values.data() + begin, static_cast<size_t>(count) * sizeof(T));
  };
  return tensor;
}

// The matrices of a rule as int8 rows in the layout's order.
class CodedRows {
 public:
  CodedRows(const LayoutRule& rule, std::vector<W8A8Matrix> matrices)
      : rows_(rule.group_rows()), columns_(rule.width), order_(rule.rows) {
    const size_t in_group = matrices.size() / static_cast<size_t>(rule.groups);
    int64_t end = 0;
    for (size_t i = 0; i < matrices.size(); ++i) {
      W8A8Matrix& matrix = matrices[i];
      FATHOM_ASSERT(matrix.values.shape.size() == 2 && matrix.values.shape[1] == columns_);
      scale_dtype_ = matrix.format.scale_dtype;
      if (i < in_group) ends_.push_back(end += matrix.values.shape[0]);
      std::vector<SavedTensor> parts =
          quantized_ints(std::move(matrix.values), matrix.format, {}, std::move(matrix.error));
      codes_.push_back(std::move(parts[0]));
      scales_.push_back(std::move(parts[1]));
    }
    FATHOM_ASSERT(end == rows_);
  }

  int64_t rows() const { return rows_; }  // of a group
  int64_t columns() const { return columns_; }

  // Columns [column, column + count) of a row.
  void read(int64_t group, int64_t row, int64_t column, int64_t count, int8_t* out) const {
    const auto [matrix, of_matrix] = place(group, row);
    codes_[matrix].read(of_matrix * columns_ + column, count, reinterpret_cast<std::byte*>(out));
  }

  float scale(int64_t group, int64_t row) const {
    const auto [matrix, of_matrix] = place(group, row);
    if (scale_dtype_ == Dtype::F32) {
      float value = 0;
      scales_[matrix].read(of_matrix, 1, reinterpret_cast<std::byte*>(&value));
      return value;
    }
    bf16 value{};
    scales_[matrix].read(of_matrix, 1, reinterpret_cast<std::byte*>(&value));
    return to_float(value);
  }

 private:
  std::pair<size_t, int64_t> place(int64_t group, int64_t row) const {
    const int64_t hf = order_ ? (*order_)[static_cast<size_t>(row)] : row;
    const auto i = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), hf) - ends_.begin());
    return {static_cast<size_t>(group) * ends_.size() + i, hf - (i == 0 ? 0 : ends_[i - 1])};
  }

  int64_t rows_, columns_;
  RowOrder order_;
  Dtype scale_dtype_ = Dtype::F32;
  std::vector<int64_t> ends_;  // of the matrices of a group, in rows
  std::vector<SavedTensor> codes_, scales_;
};
using Rows = std::shared_ptr<const CodedRows>;

// Of one matrix [out, in].
void read_matrix(const CodedRows& rows, int64_t begin, int64_t count, int8_t* out) {
  for (int64_t i = begin, last = begin + count; i < last;) {
    const int64_t row = i / rows.columns(), end = std::min(last, (row + 1) * rows.columns());
    rows.read(0, row, i - row * rows.columns(), end - i, out + (i - begin));
    i = end;
  }
}

// Of a stack [experts, in, out]: whole experts at a time, since their rows are columns there.
void read_stack(const CodedRows& rows, int64_t begin, int64_t count, int8_t* out) {
  const int64_t size = rows.rows() * rows.columns();
  std::vector<int8_t> codes(static_cast<size_t>(size)), turned(static_cast<size_t>(size));
  for (int64_t i = begin, last = begin + count; i < last;) {
    const int64_t expert = i / size, end = std::min(last, (expert + 1) * size);
    for (int64_t row = 0; row < rows.rows(); ++row)
      rows.read(expert, row, 0, rows.columns(), codes.data() + row * rows.columns());
    transpose(reinterpret_cast<const std::byte*>(codes.data()), rows.rows(), rows.columns(), 1,
              reinterpret_cast<std::byte*>(turned.data()));
    std::memcpy(out + (i - begin), turned.data() + (i - expert * size), static_cast<size_t>(end - i));
    i = end;
  }
}

// One value a row of all groups.
template <typename T, typename Value>
SavedTensor row_tensor(std::string name, Dtype dtype, std::vector<int64_t> shape, int64_t rows_of_group,
                       Value value) {
  return {{std::move(name), dtype, std::move(shape)},
          [rows_of_group, value = std::move(value)](int64_t begin, int64_t count, std::byte* out) {
            for (int64_t i = 0; i < count; ++i) {
              const T found = value((begin + i) / rows_of_group, (begin + i) % rows_of_group);
              std::memcpy(out + static_cast<size_t>(i) * sizeof found, &found, sizeof found);
            }
          }};
}

const Location* find_any(const ShardedReader& reader, const std::string& prefix,
                         std::span<const char* const> names) {
  for (const char* name : names)
    if (const Location* location = reader.find(prefix + name)) return location;
  return nullptr;
}

[[noreturn]] void refuse(const Location& location, const std::string& why) {
  throw CheckpointError("{}: tensor {} {}", location.file->path().string(), location.entry->name, why);
}

struct StoredW8A8 {
  std::shared_ptr<const ShardedReader> reader;
  const Location *codes, *scales;
  const Location* input_scale = nullptr;  // of static inputs
  int64_t rows, columns;                  // of a group
  bool is_transposed;

  void floats(const Location& of, int64_t begin, int64_t count, float* out) const {
    read_as_float(*reader, of.entry->name, begin, count, out);
  }

  // Elements that lie in one row of the tensor, [out, in] or [experts * in, out].
  void read_run(int64_t begin, int64_t count, std::vector<float>& scales_memory, float* out) const {
    const auto* from = reinterpret_cast<const int8_t*>(codes->bytes().data()) + begin;
    if (is_transposed) {
      scales_memory.resize(static_cast<size_t>(count));
      floats(*scales, begin / (rows * columns) * rows + begin % rows, count, scales_memory.data());
      for (int64_t i = 0; i < count; ++i)
        out[i] = static_cast<float>(from[i]) * scales_memory[static_cast<size_t>(i)];
      return;
    }
    float scale = 0;
    floats(*scales, begin / columns, 1, &scale);
    if (!input_scale) {
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(from[i]) * scale;
      return;
    }
    // One input scale, or one a channel, which smoothing may have made unequal.
    const bool is_one = input_scale->entry->numel() == 1;
    scales_memory.resize(is_one ? 1 : static_cast<size_t>(count));
    floats(*input_scale, is_one ? 0 : begin % columns, is_one ? 1 : count, scales_memory.data());
    for (int64_t i = 0; i < count; ++i)
      out[i] = static_cast<float>(from[i]) * (scale / scales_memory[is_one ? 0 : static_cast<size_t>(i)]);
  }

  void read(int64_t begin, int64_t count, Dtype as, std::byte* out) const {
    const int64_t width = is_transposed ? rows : columns;
    const auto size = static_cast<size_t>(formats::dtype_bits(as) / 8);
    std::vector<float> values(static_cast<size_t>(std::min(count, width))), scales_memory;
    for (int64_t i = begin, last = begin + count; i < last;) {
      const int64_t end = std::min(last, (i / width + 1) * width);
      read_run(i, end - i, scales_memory, values.data());
      store_floats(values.data(), end - i, as, out + static_cast<size_t>(i - begin) * size);
      i = end;
    }
  }
};

}  // namespace

bool is_w8a8_matrix(const config::ModelConfig& model, const config::TensorSpec& spec) {
  if (spec.layer < 0 || spec.layer >= model.num_hidden_layers) return false;
  switch (spec.role) {
    case TensorRole::attention:
      return !spec.name.ends_with("kv_b_proj.weight");
    case TensorRole::dense_mlp:
    case TensorRole::routed_expert:
    case TensorRole::shared_expert:
      return true;
    default:
      return false;
  }
}

std::vector<SavedTensor> w8a8_tensors(const LayoutRule& rule, std::vector<W8A8Matrix> matrices,
                                      const StaticActivation* inputs, Json& types) {
  FATHOM_ASSERT(rule.there.size() == 1 && matrices.size() == rule.hf.size());
  FATHOM_ASSERT(rule.is_transposed == (rule.groups > 1));
  const LayoutTensor& there = rule.there.front();
  const std::string prefix = prefix_of(there.name);
  const auto rows = std::make_shared<const CodedRows>(rule, std::move(matrices));
  std::vector<SavedTensor> result;

  const bool is_stack = rule.is_transposed;
  result.push_back({{prefix + kCodes[0], Dtype::I8, there.shape},
                    [rows, is_stack](int64_t begin, int64_t count, std::byte* out) {
                      (is_stack ? read_stack : read_matrix)(*rows, begin, count,
                                                            reinterpret_cast<int8_t*>(out));
                    },
                    is_stack ? rows->rows() * rows->columns() : 1});
  const std::vector<int64_t> shape =
      is_stack ? std::vector{rule.groups, rows->rows()} : std::vector{rows->rows()};
  if (!inputs) {
    result.push_back(
        row_tensor<float>(prefix + kWeightScales[0], Dtype::F32, shape, rows->rows(),
                          [rows](int64_t group, int64_t row) { return rows->scale(group, row); }));
  } else {
    const auto activation = std::make_shared<const StaticActivation>(*inputs);
    FATHOM_ASSERT(!is_stack && static_cast<int64_t>(activation->shift.size()) == rows->columns());
    result.push_back(row_tensor<float>(prefix + kDequantScales[0], Dtype::F32, shape, rows->rows(),
                                       [rows, activation](int64_t group, int64_t row) {
                                         return rows->scale(group, row) * activation->scale;
                                       }));
    result.push_back(row_tensor<int32_t>(prefix + kOthers[0], Dtype::I32, shape, rows->rows(),
                                         [rows, activation](int64_t group, int64_t row) {
                                           std::vector<int8_t> codes(activation->shift.size());
                                           rows->read(group, row, 0, rows->columns(), codes.data());
                                           return shift_bias(codes, *activation).front();
                                         }));
    std::vector<bf16> beta;
    for (const float shift : activation->shift) beta.push_back(to_bf16(shift));
    result.push_back(
        small_tensor(prefix + kInputScales[0], Dtype::BF16, std::vector{to_bf16(activation->scale)}));
    result.push_back(small_tensor(prefix + "quant_op.input_zp", Dtype::I8, std::vector<int8_t>{0}));
    result.push_back(small_tensor(prefix + "quant_op.beta", Dtype::BF16, std::move(beta)));
  }
  for (const SavedTensor& tensor : result) types[tensor.declaration.name] = inputs ? kStatic : kDynamic;
  return result;
}

const Location* find_w8a8(const ShardedReader& reader, const std::string& name) {
  if (!name.ends_with(".weight")) return nullptr;
  const Location* codes = find_any(reader, prefix_of(name), kCodes);
  return codes && codes->entry->dtype == Dtype::I8 ? codes : nullptr;
}

TensorView w8a8_view(std::shared_ptr<const ShardedReader> reader, const LayoutRule& rule,
                     const LayoutTensor& tensor, Dtype dtype) {
  const std::string prefix = prefix_of(tensor.name);
  StoredW8A8 stored{};
  stored.codes = find_w8a8(*reader, tensor.name);
  FATHOM_ASSERT(stored.codes != nullptr);
  stored.is_transposed = rule.is_transposed;
  stored.columns = rule.width;
  stored.rows = rule.groups > 1 ? rule.group_rows() : tensor.shape.front();
  stored.scales = find_any(*reader, prefix, kDequantScales);
  if (stored.scales) {
    stored.input_scale = find_any(*reader, prefix, kInputScales);
    if (!stored.input_scale)
      refuse(*stored.scales, fmt::format("has no {}{} beside it to tell the weights' scale from the inputs'",
                                         prefix, kInputScales[0]));
  } else {
    stored.scales = find_any(*reader, prefix, kWeightScales);
    if (!stored.scales)
      refuse(*stored.codes, fmt::format("is int8 and lies there without {}{} or {}{}", prefix,
                                        kDequantScales[0], prefix, kWeightScales[0]));
  }
  const auto check = [&](const Location& location, int64_t count, int64_t other) {
    const int64_t numel = location.entry->numel();
    if (numel != count && numel != other)
      refuse(location,
             fmt::format("holds {} scales, {} of [{}, {}] wants {}", numel, stored.codes->entry->name,
                         stored.rows * rule.groups, stored.columns, count));
  };
  check(*stored.scales, stored.rows * rule.groups, stored.rows * rule.groups);
  if (stored.input_scale) check(*stored.input_scale, 1, stored.columns);

  TensorView view;
  view.name = tensor.name;
  view.shape = tensor.shape;
  view.dtype = view.stored = dtype;
  view.file = stored.codes->file->path().string();
  stored.reader = std::move(reader);
  view.read = [stored](int64_t begin, int64_t count, Dtype as, std::byte* out) {
    stored.read(begin, count, as, out);
  };
  return view;
}

std::vector<std::string> w8a8_names(const std::string& name) {
  std::vector<std::string> names;
  if (!name.ends_with(".weight")) return names;
  const std::string prefix = prefix_of(name);
  const auto add = [&](std::span<const char* const> parts) {
    for (const char* part : parts) names.push_back(prefix + part);
  };
  add(kCodes);
  add(kDequantScales);
  add(kWeightScales);
  add(kInputScales);
  add(kOthers);
  return names;
}

}  // namespace fathom::checkpoint

#include "checkpoint/stored_values.h"

#include <fmt/ranges.h>

#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/float16.h"
#include "base/parallel.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using formats::ShardedReader;

constexpr int64_t kGrain = 1 << 18;

// The values of e4m3 ("fn": no infinities, 0x7f and 0xff are NaN).
float e4m3_value(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  float magnitude;
  if (exponent == 15 && mantissa == 7) {
    magnitude = std::nanf("");
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -9);
  } else {
    magnitude = std::ldexp(1.0f + static_cast<float>(mantissa) / 8.0f, exponent - 7);
  }
  return code & 0x80 ? -magnitude : magnitude;
}

float scale_at(const ShardedReader::Location& scale, int64_t index) {
  const std::byte* bytes = scale.bytes().data();
  if (scale.entry->dtype == Dtype::F8_E8M0) return std::ldexp(1.0f, static_cast<int>(bytes[index]) - 127);
  float value;
  std::memcpy(&value, bytes + 4 * index, 4);
  return value;
}

const ShardedReader::Location& scale_of(const ShardedReader& reader, const ShardedReader::Location& tensor) {
  const std::string &name = tensor.entry->name, file = tensor.file->path().string();
  const ShardedReader::Location* scale = reader.find(name + kScaleSuffix);
  if (!scale)
    throw CheckpointError("{}: tensor {} is float8_e4m3 but {}{} is missing", file, name, name, kScaleSuffix);
  const std::vector<int64_t>&shape = tensor.entry->shape, &scales = scale->entry->shape;
  const bool fits = shape.size() == 2 && scales.size() == 2 &&
                    scales[0] == (shape[0] + kScaleBlock - 1) / kScaleBlock &&
                    scales[1] == (shape[1] + kScaleBlock - 1) / kScaleBlock &&
                    (scale->entry->dtype == Dtype::F32 || scale->entry->dtype == Dtype::F8_E8M0);
  if (!fits)
    throw CheckpointError("{}: {}{} has shape [{}], which does not fit 128x128 blocks of {} [{}]", file, name,
                          kScaleSuffix, fmt::join(scales, ", "), name, fmt::join(shape, ", "));
  return *scale;
}

void dequantise_fp8(const ShardedReader& reader, const ShardedReader::Location& tensor, int64_t begin,
                    int64_t count, float* out) {
  const ShardedReader::Location& scale = scale_of(reader, tensor);
  static const std::array<float, 256> kValues = [] {
    std::array<float, 256> table{};
    for (size_t code = 0; code < table.size(); ++code) table[code] = e4m3_value(static_cast<uint8_t>(code));
    return table;
  }();
  const std::byte* codes = tensor.bytes().data();
  const int64_t columns = tensor.entry->shape[1], scale_columns = scale.entry->shape[1];
  parallel_for(begin, begin + count, kGrain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last;) {
      const int64_t row = i / columns, block = i % columns / kScaleBlock;
      const int64_t end = std::min(last, row * columns + std::min(columns, (block + 1) * kScaleBlock));
      const float factor = scale_at(scale, row / kScaleBlock * scale_columns + block);
      for (; i < end; ++i) out[i - begin] = kValues[static_cast<size_t>(codes[i])] * factor;
    }
  });
}

template <typename Stored, typename Convert>
void convert(const std::byte* bytes, int64_t begin, int64_t count, float* out, Convert to_value) {
  parallel_for(0, count, kGrain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      Stored stored;  // a file need not align its tensors
      std::memcpy(&stored, bytes + static_cast<size_t>(begin + i) * sizeof stored, sizeof stored);
      out[i] = to_value(stored);
    }
  });
}

}  // namespace

void read_as_float(const ShardedReader& reader, const std::string& name, int64_t begin, int64_t count,
                   float* out) {
  const ShardedReader::Location& tensor = reader.at(name);
  FATHOM_ASSERT(begin >= 0 && count >= 0 && begin + count <= tensor.entry->numel());
  const std::byte* bytes = tensor.bytes().data();
  switch (tensor.entry->dtype) {
    case Dtype::F8_E4M3:
      return dequantise_fp8(reader, tensor, begin, count, out);
    case Dtype::F64:
      return convert<double>(bytes, begin, count, out, [](double x) { return static_cast<float>(x); });
    case Dtype::F32:
      return convert<float>(bytes, begin, count, out, [](float x) { return x; });
    case Dtype::F16:
      return convert<f16>(bytes, begin, count, out, [](f16 x) { return to_float(x); });
    case Dtype::BF16:
      return convert<bf16>(bytes, begin, count, out, [](bf16 x) { return to_float(x); });
    default:
      throw CheckpointError("{}: tensor {} has dtype {}, which is not a weight dtype that can be loaded here",
                            tensor.file->path().string(), name, formats::dtype_name(tensor.entry->dtype));
  }
}

}  // namespace fathom::checkpoint

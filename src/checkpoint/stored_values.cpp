#include "checkpoint/stored_values.h"

#include <cstring>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/float16.h"
#include "base/parallel.h"
#include "checkpoint/fp8_blocks.h"
#include "checkpoint/quantized_ints.h"
#include "kernels/elementwise.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using formats::ShardedReader;

constexpr int64_t kGrain = 1 << 18;

void dequantize_fp8(const ShardedReader& reader, const ShardedReader::Location& tensor, int64_t begin,
                    int64_t count, float* out) {
  const ShardedReader::Location& scales = fp8_scales(reader, tensor);
  parallel_for(begin, begin + count, kGrain, [&](int64_t first, int64_t last) {
    dequantize_blocks(tensor, scales, first, last - first, out + (first - begin));
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

void widen(const std::byte* bytes, int64_t begin, int64_t count, float* out) {
  if (reinterpret_cast<uintptr_t>(bytes) % alignof(bf16) != 0)
    return convert<bf16>(bytes, begin, count, out, [](bf16 x) { return to_float(x); });
  kernels::convert(reinterpret_cast<const bf16*>(bytes) + begin, out, count);
}

}  // namespace

std::optional<StoredTensor> find_stored(const ShardedReader& reader, const std::string& name) {
  StoredTensor result;
  if (const std::optional<StoredInts> ints = find_stored_ints(reader, name)) {
    result.shape = {ints->rows, ints->columns};
    result.stored = ints->codes->entry->dtype;
    result.values = ints->scales->entry->dtype;
    result.file = ints->codes->file->path().string();
    result.bytes = ints->codes->entry->bytes + ints->scales->entry->bytes;
    return result;
  }
  const ShardedReader::Location* tensor = reader.find(name);
  if (!tensor) return std::nullopt;
  const Dtype dtype = tensor->entry->dtype;
  result.shape = tensor->entry->shape;
  result.stored = dtype;
  result.values = dtype == Dtype::F8_E4M3 ? Dtype::BF16 : dtype;
  result.file = tensor->file->path().string();
  result.bytes = tensor->entry->bytes;
  return result;
}

void read_as_float(const ShardedReader& reader, const std::string& name, int64_t begin, int64_t count,
                   float* out) {
  if (const std::optional<StoredInts> ints = find_stored_ints(reader, name)) {
    FATHOM_ASSERT(begin >= 0 && count >= 0 && begin + count <= ints->rows * ints->columns);
    return parallel_for(begin, begin + count, kGrain, [&](int64_t first, int64_t last) {
      dequantize_ints(*ints, first, last - first, out + (first - begin));
    });
  }
  const ShardedReader::Location& tensor = reader.at(name);
  FATHOM_ASSERT(begin >= 0 && count >= 0 && begin + count <= tensor.entry->numel());
  const std::byte* bytes = tensor.bytes().data();
  switch (tensor.entry->dtype) {
    case Dtype::F8_E4M3:
      return dequantize_fp8(reader, tensor, begin, count, out);
    case Dtype::F64:
      return convert<double>(bytes, begin, count, out, [](double x) { return static_cast<float>(x); });
    case Dtype::F32:
      return convert<float>(bytes, begin, count, out, [](float x) { return x; });
    case Dtype::F16:
      return convert<f16>(bytes, begin, count, out, [](f16 x) { return to_float(x); });
    case Dtype::BF16:
      return widen(bytes, begin, count, out);
    default:
      throw CheckpointError("{}: tensor {} has dtype {}, which is not a weight dtype that can be loaded here",
                            tensor.file->path().string(), name, formats::dtype_name(tensor.entry->dtype));
  }
}

}  // namespace fathom::checkpoint

#include "checkpoint/compare.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <string_view>
#include <type_traits>

#include "base/error.h"
#include "base/json.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "base/stop_signal.h"
#include "checkpoint/stored_values.h"
#include "checkpoint/tensor_view.h"
#include "formats/sharded_safetensors.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using Reader = std::shared_ptr<const formats::ShardedReader>;

constexpr int64_t kChunkElements = 1 << 16;

bool is_readable(Dtype dtype) {
  switch (dtype) {
    case Dtype::F64:
    case Dtype::F32:
    case Dtype::F16:
    case Dtype::BF16:
    case Dtype::F8_E4M3:
      return true;
    default:
      return false;
  }
}

bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

// What a tensor holds beside its own bytes: fp8's scales.
std::span<const std::byte> scale_bytes(const formats::ShardedReader& reader, const std::string& name) {
  const auto* scales = reader.find(name + kScaleSuffix);
  return scales ? scales->bytes() : std::span<const std::byte>();
}

class TensorComparison {
 public:
  TensorComparison(const Reader& first, const Reader& second, TensorDifference& difference,
                   Progress& progress)
      : first_(first),
        second_(second),
        result_(difference),
        progress_(progress),
        a_(first->at(difference.name)),
        b_(second->at(difference.name)) {}

  bool is_same() {
    const bool is_fp8 = a_.entry->dtype == Dtype::F8_E4M3;
    const bool same =
        a_.entry->dtype == b_.entry->dtype && same_bytes(a_.bytes(), b_.bytes()) &&
        (!is_fp8 || same_bytes(scale_bytes(*first_, result_.name), scale_bytes(*second_, result_.name)));
    if (same) progress_.advance(a_.entry->bytes);
    return same;
  }

  void measure() {
    if (!has_values(*first_, a_) || !has_values(*second_, b_)) {
      if (a_.entry->dtype == b_.entry->dtype) count_bits();
      return progress_.advance(a_.entry->bytes);
    }
    result_.has_values = true;
    const bool is_wide = a_.entry->dtype == Dtype::F64 || b_.entry->dtype == Dtype::F64;
    is_wide ? measure_as<double>(Dtype::F64) : measure_as<float>(Dtype::F32);
  }

 private:
  static bool has_values(const formats::ShardedReader& reader,
                         const formats::ShardedReader::Location& tensor) {
    return is_readable(tensor.entry->dtype) &&
           (tensor.entry->dtype != Dtype::F8_E4M3 || reader.find(tensor.entry->name + kScaleSuffix));
  }

  void count_bits() {
    const auto size = static_cast<size_t>(std::max<int64_t>(1, formats::dtype_bits(a_.entry->dtype) / 8));
    for (size_t at = 0; at + size <= a_.bytes().size(); at += size)
      result_.elements += std::memcmp(a_.bytes().data() + at, b_.bytes().data() + at, size) != 0;
  }

  template <typename T>
  void measure_as(Dtype as) {
    const TensorView a = stored_view(first_, result_.name), b = stored_view(second_, result_.name);
    std::vector<T> x(static_cast<size_t>(std::min(kChunkElements, result_.numel))), y(x.size());
    for (int64_t begin = 0; begin < result_.numel; begin += kChunkElements) {
      if (stop_requested()) throw Error("stopped by a signal before everything was compared");
      const int64_t count = std::min(kChunkElements, result_.numel - begin);
      a.read(begin, count, as, reinterpret_cast<std::byte*>(x.data()));
      b.read(begin, count, as, reinterpret_cast<std::byte*>(y.data()));
      for (size_t i = 0; i < static_cast<size_t>(count); ++i) add(x[i], y[i]);
      progress_.advance(static_cast<uint64_t>(count * formats::dtype_bits(a_.entry->dtype) / 8));
    }
    result_.relative =
        difference_ == 0 ? 0 : std::sqrt(difference_) / std::sqrt(norm_);  // infinite for a = 0
  }

  template <typename T>
  void add(T x, T y) {
    if (std::isfinite(x)) norm_ += double(x) * double(x);
    using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
    if (std::bit_cast<Bits>(x) == std::bit_cast<Bits>(y)) return;
    const bool is_one_dtype = a_.entry->dtype == b_.entry->dtype && a_.entry->dtype != Dtype::F8_E4M3;
    const bool is_equal = x == y || (std::isnan(x) && std::isnan(y));
    result_.elements += is_one_dtype || !is_equal;
    if (is_equal) return;
    const double distance = std::abs(double(x) - double(y));
    result_.max_absolute = std::max(result_.max_absolute, std::isnan(distance) ? HUGE_VAL : distance);
    difference_ += std::isnan(distance) ? HUGE_VAL : distance * distance;
  }

  const Reader &first_, &second_;
  TensorDifference& result_;
  Progress& progress_;
  const formats::ShardedReader::Location &a_, &b_;
  double norm_ = 0, difference_ = 0;
};

// The scales of a matrix that the other side stores in another dtype say nothing by themselves.
bool explains_dtype(const InspectedTensor& tensor,
                    const std::map<std::string_view, const InspectedTensor*>& others) {
  if (!tensor.name.ends_with(kScaleSuffix)) return false;
  const auto other =
      others.find(std::string_view(tensor.name).substr(0, tensor.name.size() - std::strlen(kScaleSuffix)));
  return other != others.end() && other->second->dtype != "F8_E4M3";
}

std::map<std::string_view, const InspectedTensor*> by_name(const Inspection& inspection) {
  std::map<std::string_view, const InspectedTensor*> names;
  for (const InspectedTensor& tensor : inspection.tensors) names[tensor.name] = &tensor;
  return names;
}

std::vector<ConfigDifference> compare_configs(const Inspection& first, const Inspection& second) {
  std::vector<ConfigDifference> result;
  if (!first.model || !second.model) return result;
  const Json &a = first.model->raw, &b = second.model->raw;
  for (const auto& [key, value] : a.items()) {
    if (!b.contains(key))
      result.push_back({key, value.dump(), ""});
    else if (b[key] != value)
      result.push_back({key, value.dump(), b[key].dump()});
  }
  for (const auto& [key, value] : b.items())
    if (!a.contains(key)) result.push_back({key, "", value.dump()});
  return result;
}

}  // namespace

CheckpointDifference compare(const Inspection& first, const Inspection& second) {
  CheckpointDifference result;
  result.config = compare_configs(first, second);
  const auto firsts = by_name(first), seconds = by_name(second);
  std::vector<TensorDifference> pairs;
  uint64_t bytes = 0;
  const bool has_contents = first.kind != "config" && second.kind != "config";
  for (const InspectedTensor& tensor : first.tensors) {
    const auto found = seconds.find(tensor.name);
    if (found == seconds.end()) {
      if (!explains_dtype(tensor, seconds)) result.only_first.push_back(tensor.name);
      continue;
    }
    const InspectedTensor& other = *found->second;
    TensorDifference pair;
    pair.name = tensor.name;
    if (tensor.shape != other.shape) {
      pair.what = fmt::format("shape {}, {}", Json(tensor.shape).dump(), Json(other.shape).dump());
    } else {
      pair.what =
          tensor.dtype == other.dtype ? "values" : fmt::format("dtype {}, {}", tensor.dtype, other.dtype);
      pair.numel = tensor.numel();
      bytes += tensor.bytes;
    }
    pairs.push_back(std::move(pair));
  }
  for (const InspectedTensor& tensor : second.tensors)
    if (!firsts.contains(tensor.name) && !explains_dtype(tensor, firsts))
      result.only_second.push_back(tensor.name);

  std::vector<char> is_same(pairs.size(), 0);
  const auto has_shape_fault = [&](size_t i) { return pairs[i].what.starts_with("shape"); };
  if (has_contents) {
    const auto a = std::make_shared<const formats::ShardedReader>(first.path);
    const auto b = std::make_shared<const formats::ShardedReader>(second.path);
    Progress progress("compare", bytes, "B");
    std::atomic<size_t> next{0};
    parallel_tasks(num_threads(), [&](int64_t) {
      for (size_t i; (i = next.fetch_add(1)) < pairs.size();) {
        if (has_shape_fault(i)) continue;
        TensorComparison comparison(a, b, pairs[i], progress);
        is_same[i] = comparison.is_same();
        if (!is_same[i]) comparison.measure();
      }
    });
    progress.finish();
  }
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (has_contents && !has_shape_fault(i)) ++result.compared;
    if (has_contents ? !is_same[i] : pairs[i].what != "values")
      result.differing.push_back(std::move(pairs[i]));
  }
  return result;
}

}  // namespace fathom::checkpoint

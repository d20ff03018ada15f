#include "weights/parameter_registry.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <numeric>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/parallel.h"
#include "checkpoint/initial_values.h"

namespace fathom::weights {
namespace {

int64_t product(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

constexpr int64_t kFillChunk = 1 << 18;

}  // namespace

int64_t Piece::numel() const { return product(shape); }

void Piece::for_each_run(const std::function<void(int64_t global, int64_t local, int64_t count)>& use) const {
  const std::vector<int64_t>& whole = spec->shape;
  // Dimensions behind the last one that is cut make up one element of it.
  size_t cut = shape.size();
  while (cut > 0 && shape[cut - 1] == whole[cut - 1]) --cut;
  if (cut == 0) return use(0, 0, numel());
  FATHOM_ASSERT(cut <= 2);
  const int64_t inner = std::accumulate(shape.begin() + static_cast<std::ptrdiff_t>(cut), shape.end(),
                                        int64_t{1}, std::multiplies<>());
  const int64_t run = shape[cut - 1] * inner, width = whole[cut - 1] * inner;
  const int64_t begin = global_offset[cut - 1] * inner;
  if (cut == 1) return use(begin, 0, run);
  for (int64_t row = 0; row < shape[0]; ++row) use((global_offset[0] + row) * width + begin, row * run, run);
}

at::Tensor Parameter::piece_of(const at::Tensor& whole, const Piece& piece) const {
  return whole.view({-1}).narrow(0, piece.flat_offset, piece.numel()).view(piece.shape);
}

std::vector<int64_t> Parameter::state_shape() const {
  return has_whole_state() ? shape : std::vector<int64_t>{state.count()};
}

at::Tensor Parameter::value_of(ElementRange range) const {
  return value.view({-1}).narrow(0, range.begin, range.count());
}

at::ScalarType value_dtype(config::Precision precision) {
  switch (precision) {
    case config::Precision::fp32:
      return at::kFloat;
    case config::Precision::fp64:
      return at::kDouble;
    default:
      return at::kBFloat16;
  }
}

at::ScalarType main_grad_dtype(config::Precision precision, config::StateDtype grad_dtype) {
  switch (precision) {
    case config::Precision::bf16:
      return grad_dtype == config::StateDtype::bf16 ? at::kBFloat16 : at::kFloat;
    case config::Precision::bf16_pure:
      return at::kBFloat16;
    case config::Precision::fp64:
      return at::kDouble;
    default:
      return at::kFloat;
  }
}

ParameterRegistry::ParameterRegistry(const config::ModelConfig& config, config::Precision precision,
                                     c10::Device device, bool trained, const Sharding& sharding)
    : config_(config),
      table_(config_),
      precision_(precision),
      device_(device),
      trained_(trained),
      sharding_(sharding) {}

Parameter& ParameterRegistry::add(const std::string& name) {
  return add(name, table_.at(name).shape, {name});
}

Parameter& ParameterRegistry::add(const std::string& label, std::vector<int64_t> shape,
                                  const std::vector<std::string>& names) {
  std::vector<Slice> slices;
  for (const std::string& name : names) slices.push_back({name});
  return add(label, std::move(shape), slices, Holders::stage);
}

Parameter& ParameterRegistry::add(const std::string& label, std::vector<int64_t> shape,
                                  const std::vector<Slice>& slices, Holders holders) {
  Parameter& parameter = parameters_.emplace_back();
  parameter.label = label;
  parameter.shape = std::move(shape);
  parameter.holders = holders;
  int64_t offset = 0;
  for (const Slice& slice : slices) {
    const std::string& name = slice.name;
    const config::TensorSpec& spec = table_.at(name);
    Piece piece{&spec, offset, spec.shape, std::vector<int64_t>(spec.shape.size(), 0)};
    if (slice.count >= 0) {
      const auto dim = static_cast<size_t>(slice.dim);
      FATHOM_ASSERT(slice.begin >= 0 && slice.begin + slice.count <= spec.shape.at(dim));
      piece.shape[dim] = slice.count;
      piece.global_offset[dim] = slice.begin;
    }
    offset += piece.numel();
    parameter.pieces.push_back(std::move(piece));
    if (!held_.emplace(name, std::pair{parameters_.size() - 1, parameter.pieces.size() - 1}).second)
      throw std::logic_error("parameter " + name + " is registered twice");
  }
  FATHOM_ASSERT(offset == product(parameter.shape));
  const config::TensorSpec& first = *parameter.pieces.front().spec;
  parameter.is_decayed = first.is_decayed();
  parameter.is_router_bias = first.role == config::TensorRole::router_bias;
  if (first.role == config::TensorRole::routed_expert) parameter.holders = Holders::expert_data;
  parameter.replica = sharding_.of(parameter.holders);
  parameter.share = share_of(offset, parameter.replica.place, parameter.replica.size);
  parameter.state = sharding_.shards_state ? parameter.share : ElementRange{0, offset};
  const at::ScalarType dtype = parameter.is_router_bias && precision_ != config::Precision::fp64
                                   ? at::kFloat
                                   : value_dtype(precision_);
  parameter.value = at::empty(parameter.shape, at::TensorOptions().dtype(dtype).device(device_));
  if (trained_ && has_masters() && !parameter.is_router_bias)
    parameter.low_bits =
        at::empty(parameter.state_shape(), at::TensorOptions().dtype(at::kShort).device(device_));
  return parameter;
}

void ParameterRegistry::add_tied_copy(const std::string& name, const std::string& source) {
  tied_copies_.push_back({&table_.at(name), source});
}

void ParameterRegistry::check_complete() const {
  std::map<std::string, int> seen;
  for (const auto& [name, place] : held_) ++seen[name];
  for (const TiedCopy& copy : tied_copies_) ++seen[copy.spec->name];
  for (const std::string& name : elsewhere_) ++seen[name];
  for (const config::TensorSpec& spec : table_.tensors())
    if (seen[spec.name] != 1)
      throw std::logic_error(fmt::format("parameter {} is registered {} times", spec.name, seen[spec.name]));
}

std::pair<Parameter*, const Piece*> ParameterRegistry::find(const std::string& name) {
  const auto place = held_.find(name);
  if (place == held_.end()) return {nullptr, nullptr};
  Parameter& parameter = parameters_[place->second.first];
  return {&parameter, &parameter.pieces[place->second.second]};
}

void ParameterRegistry::set_piece(Parameter& parameter, const Piece& piece, const float* values) {
  set_elements(parameter, piece.range(), values);
}

void ParameterRegistry::set_elements(Parameter& parameter, ElementRange range, const float* values) {
  at::Tensor target = parameter.value_of(range);
  if (!parameter.low_bits.defined()) {
    target.copy_(at::from_blob(const_cast<float*>(values), {range.count()}, at::kFloat));
    return;
  }
  uint16_t* high = reinterpret_cast<uint16_t*>(target.data_ptr());
  parallel_for(0, range.count(), kFillChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)  // half up, so that get_master's sum inverts it
      high[i] = static_cast<uint16_t>((std::bit_cast<uint32_t>(values[i]) + 0x8000u) >> 16);
  });
  const ElementRange held = intersection(range, parameter.state);
  if (held.empty()) return;
  int16_t* low = parameter.low_bits.mutable_data_ptr<int16_t>() + (held.begin - parameter.state.begin);
  const float* of_held = values + (held.begin - range.begin);
  parallel_for(0, held.count(), kFillChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      low[i] = static_cast<int16_t>(std::bit_cast<uint32_t>(of_held[i]) & 0xffffu);
  });
}

void ParameterRegistry::get_master(const Parameter& parameter, const Piece& piece, float* values) const {
  get_master(parameter, piece.range(), values);
}

void ParameterRegistry::get_master(const Parameter& parameter, ElementRange range, float* values) const {
  const at::Tensor source = parameter.value_of(range);
  if (!parameter.low_bits.defined()) {
    at::from_blob(values, {range.count()}, at::kFloat).copy_(source);
    return;
  }
  FATHOM_ASSERT(intersection(range, parameter.state) == range);
  const uint16_t* high = reinterpret_cast<const uint16_t*>(source.const_data_ptr());
  const int16_t* low = parameter.low_bits.const_data_ptr<int16_t>() + (range.begin - parameter.state.begin);
  parallel_for(0, range.count(), kFillChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      values[i] = std::bit_cast<float>((uint32_t{high[i]} << 16) +
                                       static_cast<uint32_t>(static_cast<int32_t>(low[i])));
  });
}

void ParameterRegistry::initialize(uint64_t seed) {
  std::vector<float> buffer;
  for (Parameter& parameter : parameters_) {
    for (const Piece& piece : parameter.pieces) {
      buffer.resize(static_cast<size_t>(piece.numel()));
      piece.for_each_run([&](int64_t global, int64_t local, int64_t count) {
        checkpoint::initial_values(*piece.spec, config_.initializer_range, seed, global, count,
                                   buffer.data() + local);
      });
      set_piece(parameter, piece, buffer.data());
    }
  }
}

void ParameterRegistry::allocate_grads(config::StateDtype grad_dtype) {
  const at::ScalarType dtype = main_grad_dtype(precision_, grad_dtype);
  for (Parameter& parameter : parameters_) {
    if (parameter.is_router_bias) continue;
    const at::TensorOptions options = parameter.value.options().dtype(dtype);
    if (sharding_.shards_gradients && parameter.replica.size > 1) {
      parameter.main_grad = at::empty({0}, options);
      parameter.grad_share = at::empty({parameter.share.count()}, options);
    } else {
      parameter.main_grad = at::empty(parameter.shape, options);
      parameter.grad_share =
          parameter.main_grad.view({-1}).narrow(0, parameter.share.begin, parameter.share.count());
    }
    parameter.main_grad_empty = true;
  }
}

ParameterRegistry::HeldBytes ParameterRegistry::held_bytes() const {
  const auto bytes = [](const at::Tensor& tensor) {
    return tensor.defined() ? static_cast<int64_t>(tensor.nbytes()) : 0;
  };
  HeldBytes held;
  for (const Parameter& p : parameters_) {
    held.weights += bytes(p.value);
    held.gradients += bytes(p.main_grad);
    if (p.grad_share.defined() && !p.grad_share.is_alias_of(p.main_grad))
      held.gradients += bytes(p.grad_share);
    held.state += bytes(p.low_bits) + bytes(p.exp_avg) + bytes(p.exp_avg_sq);
  }
  return held;
}

void ParameterRegistry::clear_grads() {
  for (Parameter& parameter : parameters_) parameter.main_grad_empty = true;
}

}  // namespace fathom::weights

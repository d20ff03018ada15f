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

at::Tensor Parameter::piece_of(const at::Tensor& whole, const Piece& piece) const {
  return whole.view({-1}).narrow(0, piece.flat_offset, piece.numel()).view(piece.shape);
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
                                     c10::Device device, bool trained)
    : config_(config), table_(config_), precision_(precision), device_(device), trained_(trained) {}

Parameter& ParameterRegistry::add(const std::string& name) {
  return add(name, table_.at(name).shape, {name});
}

Parameter& ParameterRegistry::add(const std::string& label, std::vector<int64_t> shape,
                                  const std::vector<std::string>& names) {
  Parameter& parameter = parameters_.emplace_back();
  parameter.label = label;
  parameter.shape = std::move(shape);
  int64_t offset = 0;
  for (const std::string& name : names) {
    const config::TensorSpec& spec = table_.at(name);
    parameter.pieces.push_back({&spec, offset, spec.shape, std::vector<int64_t>(spec.shape.size(), 0)});
    offset += spec.numel();
    if (!held_.emplace(name, std::pair{parameters_.size() - 1, parameter.pieces.size() - 1}).second)
      throw std::logic_error("parameter " + name + " is registered twice");
  }
  FATHOM_ASSERT(offset == product(parameter.shape));
  const config::TensorSpec& first = *parameter.pieces.front().spec;
  parameter.is_decayed = first.is_decayed();
  parameter.is_router_bias = first.role == config::TensorRole::router_bias;
  const at::ScalarType dtype = parameter.is_router_bias && precision_ != config::Precision::fp64
                                   ? at::kFloat
                                   : value_dtype(precision_);
  parameter.value = at::empty(parameter.shape, at::TensorOptions().dtype(dtype).device(device_));
  if (trained_ && has_masters() && !parameter.is_router_bias)
    parameter.low_bits = at::empty(parameter.shape, at::TensorOptions().dtype(at::kShort).device(device_));
  return parameter;
}

void ParameterRegistry::add_tied_copy(const std::string& name, const std::string& source) {
  tied_copies_.push_back({&table_.at(name), source});
}

void ParameterRegistry::check_complete() const {
  std::map<std::string, int> seen;
  for (const auto& [name, place] : held_) ++seen[name];
  for (const TiedCopy& copy : tied_copies_) ++seen[copy.spec->name];
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
  const int64_t n = piece.numel();
  at::Tensor target = parameter.piece_of(parameter.value, piece).view({-1});
  const at::Tensor source =
      at::from_blob(const_cast<float*>(values), {n}, at::TensorOptions().dtype(at::kFloat));
  if (!parameter.low_bits.defined()) {
    target.copy_(source);
    return;
  }
  uint16_t* high = reinterpret_cast<uint16_t*>(target.data_ptr());
  int16_t* low = parameter.piece_of(parameter.low_bits, piece).mutable_data_ptr<int16_t>();
  parallel_for(0, n, kFillChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint32_t bits = std::bit_cast<uint32_t>(values[i]);
      high[i] = static_cast<uint16_t>((bits + 0x8000u) >> 16);  // half up, so that the sum below inverts it
      low[i] = static_cast<int16_t>(bits & 0xffffu);
    }
  });
}

void ParameterRegistry::get_master(const Parameter& parameter, const Piece& piece, float* values) const {
  const int64_t n = piece.numel();
  const at::Tensor source = parameter.piece_of(parameter.value, piece).view({-1});
  if (!parameter.low_bits.defined()) {
    at::from_blob(values, {n}, at::TensorOptions().dtype(at::kFloat)).copy_(source);
    return;
  }
  const uint16_t* high = reinterpret_cast<const uint16_t*>(source.const_data_ptr());
  const int16_t* low = parameter.piece_of(parameter.low_bits, piece).const_data_ptr<int16_t>();
  parallel_for(0, n, kFillChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      values[i] = std::bit_cast<float>((uint32_t{high[i]} << 16) +
                                       static_cast<uint32_t>(static_cast<int32_t>(low[i])));
  });
}

void ParameterRegistry::initialize(uint64_t seed) {
  std::vector<float> buffer;
  for (Parameter& parameter : parameters_) {
    for (const Piece& piece : parameter.pieces) {
      FATHOM_ASSERT(piece.is_whole());  // a slice walks its rows when tensor parallel arrives
      buffer.resize(static_cast<size_t>(piece.numel()));
      checkpoint::initial_values(*piece.spec, config_.initializer_range, seed, 0, piece.numel(),
                                 buffer.data());
      set_piece(parameter, piece, buffer.data());
    }
  }
}

void ParameterRegistry::allocate_grads(config::StateDtype grad_dtype) {
  const at::ScalarType dtype = main_grad_dtype(precision_, grad_dtype);
  for (Parameter& parameter : parameters_) {
    if (parameter.is_router_bias) continue;
    parameter.main_grad = at::empty(parameter.shape, parameter.value.options().dtype(dtype));
    parameter.main_grad_empty = true;
  }
}

void ParameterRegistry::clear_grads() {
  for (Parameter& parameter : parameters_) parameter.main_grad_empty = true;
}

}  // namespace fathom::weights

#include "quantize/smoothquant.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/exp2.h>
#include <ATen/ops/log2.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>

#include <memory>
#include <utility>

#include "base/error.h"
#include "formats/dtype.h"

namespace fathom::quantize {
namespace {

bool is_reader(const config::TensorSpec& spec, const std::string& prefix, const std::string& norm) {
  const auto is = [&](const char* suffix) { return spec.name == prefix + suffix; };
  if (norm == "input_layernorm")
    return is("self_attn.q_proj.weight") || is("self_attn.q_a_proj.weight") ||
           is("self_attn.kv_a_proj_with_mqa.weight");
  if (norm == "self_attn.q_a_layernorm") return is("self_attn.q_b_proj.weight");
  if (norm == "self_attn.kv_a_layernorm") return is("self_attn.kv_b_proj.weight");
  return spec.role == config::TensorRole::router || spec.name.ends_with(".gate_proj.weight") ||
         spec.name.ends_with(".up_proj.weight");
}

}  // namespace

std::vector<SmoothingGroup> smoothing_groups(const config::TensorTable& table, int64_t layer) {
  const std::string prefix = config::layer_prefix(layer);
  std::vector<SmoothingGroup> groups;
  for (const std::string norm : {"input_layernorm", "self_attn.q_a_layernorm", "self_attn.kv_a_layernorm",
                                 "post_attention_layernorm"}) {
    SmoothingGroup group{prefix + norm + ".weight", {}};
    if (!table.find(group.norm)) continue;  // no query compression
    for (const config::TensorSpec& spec : table.tensors())
      if (spec.layer == layer && is_reader(spec, prefix, norm)) group.readers.push_back(spec.name);
    groups.push_back(std::move(group));
  }
  return groups;
}

at::Tensor smoothing_scales(const at::Tensor& input_largest, const at::Tensor& weight_largest, double alpha) {
  const at::Tensor x = input_largest.to(at::kDouble), w = weight_largest.to(at::kDouble);
  const at::Tensor exponent = (at::log2(x) * alpha - at::log2(w) * (1 - alpha)).round().clamp(-60, 60);
  return at::where((x > 0) & (w > 0), at::exp2(exponent), at::ones_like(x)).to(at::kFloat);
}

void fold(weights::ParameterRegistry& registry, const SmoothingGroup& group, const at::Tensor& scales) {
  const auto values = [&](const std::string& name) {
    const auto [parameter, piece] = registry.find(name);
    FATHOM_ASSERT(parameter != nullptr);
    return parameter->piece_of(parameter->value, *piece);
  };
  at::Tensor norm = values(group.norm);
  norm.div_(scales.to(norm.scalar_type()));
  for (const std::string& reader : group.readers) {
    at::Tensor matrix = values(reader);
    matrix.mul_(scales.to(matrix.scalar_type()));
  }
}

checkpoint::TensorView scaled(checkpoint::TensorView view, std::vector<float> factors) {
  const auto columns = static_cast<int64_t>(factors.size());
  FATHOM_ASSERT(!view.shape.empty() && view.shape.back() == columns);
  const auto shared = std::make_shared<const std::vector<float>>(std::move(factors));
  view.read = [read = std::move(view.read), shared, columns](int64_t begin, int64_t count, formats::Dtype as,
                                                             std::byte* out) {
    std::vector<float> values(static_cast<size_t>(count));
    read(begin, count, formats::Dtype::F32, reinterpret_cast<std::byte*>(values.data()));
    for (int64_t i = 0; i < count; ++i)
      values[static_cast<size_t>(i)] *= (*shared)[static_cast<size_t>((begin + i) % columns)];
    checkpoint::store_floats(values.data(), count, as, out);
  };
  return view;
}

}  // namespace fathom::quantize

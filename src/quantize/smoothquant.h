// SmoothQuant (Xiao et al. 2022, arXiv 2211.10438): channels with large inputs are divided before a matrix and its
// columns multiplied, the division folded into the norm that makes the inputs. Every reader of that norm takes part:
// the router too, which is not quantised.
//
// Scales are equation 4's, rounded to powers of two: folding is then exact in float32 and bfloat16, and the model that is
// quantised afterwards computes the bits that the source computes, the router's choices among them.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "checkpoint/tensor_view.h"
#include "config/tensor_table.h"
#include "weights/parameter_registry.h"

namespace fathom::quantize {

// A norm and everything that multiplies its output.
struct SmoothingGroup {
  std::string norm;
  std::vector<std::string> readers;  // matrices [out, in] over the norm's channels, the router among them
};

// Of one layer: input_layernorm, q_a_layernorm, kv_a_layernorm, post_attention_layernorm.
std::vector<SmoothingGroup> smoothing_groups(const config::TensorTable& table, int64_t layer);

// s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), the nearest power of two; 1 where either is zero. float [in] each.
at::Tensor smoothing_scales(const at::Tensor& input_largest, const at::Tensor& weight_largest, double alpha);

// Divides the norm's gain and multiplies the readers' columns, in the registry's values.
void fold(weights::ParameterRegistry& registry, const SmoothingGroup& group, const at::Tensor& scales);

// The same for tensors on their way to a file: `factors` one a column of `view`, or one an element of a vector.
checkpoint::TensorView scaled(checkpoint::TensorView view, std::vector<float> factors);

}  // namespace fathom::quantize

// Projections without bias: y = x W^T, and the embedding look-up.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/weight.h"

namespace fathom::ops {

// x [T, in], w.value [out, in], both of one dtype -> [T, out]. Large products go to oneDNN/MKL through ATen; fp32
// accumulation. Backward: dx = dy W; dW = dy^T x handed to the weight's sink.
at::Tensor linear(const at::Tensor& x, Weight& w);

// The router's product: x [T, in] of any dtype, w.value [out, in] of any dtype; computed and returned in float
// (double for double), with the gradient of w in that precision too (NUM-3).
at::Tensor linear_fp32(const at::Tensor& x, Weight& w);

// tokens int64 [T] in [0, V), w.value [V, D] -> [T, D]. Backward adds rows of dy into w's gradient, in token order.
at::Tensor embedding(const at::Tensor& tokens, Weight& w);

}  // namespace fathom::ops

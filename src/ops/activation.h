// SwiGLU (arXiv 2002.05202) on dense tensors, outside autograd; shared by the dense MLP and the experts.
#pragma once

#include <ATen/core/Tensor.h>

namespace fathom::ops {

// gate_up [T, 2F] -> silu(gate) * up [T, F], computed in float and rounded once.
at::Tensor swiglu(const at::Tensor& gate_up);

// d_activation [T, F] -> d_gate_up [T, 2F].
at::Tensor swiglu_backward(const at::Tensor& gate_up, const at::Tensor& d_activation);

}  // namespace fathom::ops

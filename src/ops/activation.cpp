#include "ops/activation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>

#include "ops/runtime.h"

namespace fathom::ops {

at::Tensor swiglu(const at::Tensor& gate_up) {
  const at::ScalarType precise = accumulate_dtype(gate_up);
  const int64_t F = gate_up.size(1) / 2;
  return (at::silu(gate_up.narrow(1, 0, F).to(precise)) * gate_up.narrow(1, F, F).to(precise))
      .to(gate_up.scalar_type());
}

at::Tensor swiglu_backward(const at::Tensor& gate_up, const at::Tensor& d_activation) {
  const at::ScalarType precise = accumulate_dtype(gate_up);
  const int64_t F = gate_up.size(1) / 2;
  const at::Tensor gate = gate_up.narrow(1, 0, F).to(precise), up = gate_up.narrow(1, F, F).to(precise);
  const at::Tensor d = d_activation.to(precise), sigma = at::sigmoid(gate);
  const at::Tensor d_up = d * gate * sigma;
  const at::Tensor d_gate = d * up * sigma * (1 + gate * (1 - sigma));
  return at::cat({d_gate, d_up}, 1).to(gate_up.scalar_type());
}

}  // namespace fathom::ops

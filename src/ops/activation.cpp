#include "ops/activation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>

#include "kernels/swiglu.h"
#include "ops/kernel_args.h"
#include "ops/runtime.h"

namespace fathom::ops {

at::Tensor swiglu(const at::Tensor& gate_up) {
  if (use_kernels(gate_up)) {
    kernels::SwigluForwardParams params;
    params.dtype = kernel_dtype(gate_up);
    params.num_rows = gate_up.size(0);
    params.dim = gate_up.size(1) / 2;
    at::Tensor activation = at::empty({params.num_rows, params.dim}, gate_up.options());
    params.gate_up = gate_up.const_data_ptr();
    params.activation = activation.mutable_data_ptr();
    kernels::swiglu_forward(params);
    return activation;
  }
  const at::ScalarType precise = accumulate_dtype(gate_up);
  const int64_t F = gate_up.size(1) / 2;
  return (at::silu(gate_up.narrow(1, 0, F).to(precise)) * gate_up.narrow(1, F, F).to(precise))
      .to(gate_up.scalar_type());
}

at::Tensor swiglu_backward(const at::Tensor& gate_up, const at::Tensor& d_activation) {
  if (use_kernels(gate_up)) {
    kernels::SwigluBackwardParams params;
    params.dtype = kernel_dtype(gate_up);
    params.num_rows = gate_up.size(0);
    params.dim = gate_up.size(1) / 2;
    at::Tensor d_gate_up = at::empty(gate_up.sizes(), gate_up.options());
    params.gate_up = gate_up.const_data_ptr();
    params.dactivation = d_activation.const_data_ptr();
    params.dgate_up = d_gate_up.mutable_data_ptr();
    kernels::swiglu_backward(params);
    return d_gate_up;
  }
  const at::ScalarType precise = accumulate_dtype(gate_up);
  const int64_t F = gate_up.size(1) / 2;
  const at::Tensor gate = gate_up.narrow(1, 0, F).to(precise), up = gate_up.narrow(1, F, F).to(precise);
  const at::Tensor d = d_activation.to(precise), sigma = at::sigmoid(gate);
  const at::Tensor d_up = d * gate * sigma;
  const at::Tensor d_gate = d * up * sigma * (1 + gate * (1 - sigma));
  return at::cat({d_gate, d_up}, 1).to(gate_up.scalar_type());
}

}  // namespace fathom::ops

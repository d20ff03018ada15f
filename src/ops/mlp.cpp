#include "ops/mlp.h"

#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/activation.h"
#include "ops/grouped_gemm.h"

namespace fathom::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct SwigluLinear : torch::autograd::Function<SwigluLinear> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up, Weight* w_down) {
    ctx->save_for_backward({gate_up});
    ctx->saved_data["weight"] = reinterpret_cast<int64_t>(w_down);
    const at::Tensor activation = swiglu(gate_up);
    if (w_down->observer) w_down->observer->observe(*w_down, activation);
    return at::mm(activation, w_down->value.t());
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    Weight& w_down = *reinterpret_cast<Weight*>(ctx->saved_data["weight"].toInt());
    const at::Tensor gate_up = ctx->get_saved_variables()[0].detach(), dy = grads[0].contiguous();
    const at::Tensor d_gate_up = swiglu_backward(gate_up, at::mm(dy, w_down.value));
    accumulate_grad(w_down, [gate_up, dy](Weight& weight) { add_product_grad(weight, dy, swiglu(gate_up)); });
    return {d_gate_up, at::Tensor()};
  }
};

}  // namespace

at::Tensor swiglu_linear(const at::Tensor& gate_up, Weight& w_down) {
  return SwigluLinear::apply(gate_up, &w_down);
}

}  // namespace fathom::ops

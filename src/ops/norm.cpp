#include "ops/norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/rsqrt.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/runtime.h"

namespace fathom::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, Weight* w, double eps) {
    const at::Tensor wide = x.to(accumulate_dtype(x));
    const at::Tensor rstd = at::rsqrt(wide.square().mean(-1, true).add_(eps));
    ctx->save_for_backward({x, rstd});
    ctx->saved_data["weight"] = reinterpret_cast<int64_t>(w);
    return (wide * rstd).to(x.scalar_type()).mul_(w->value);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    Weight& w = *reinterpret_cast<Weight*>(ctx->saved_data["weight"].toInt());
    const auto saved = ctx->get_saved_variables();
    const at::Tensor x = saved[0].detach(), rstd = saved[1];
    const at::ScalarType precise = accumulate_dtype(x);
    const at::Tensor normalized = x.to(precise) * rstd, dy = grads[0].to(precise);
    const at::Tensor g = dy * w.value.to(precise);
    const at::Tensor dx =
        ((g - normalized * (g * normalized).mean(-1, true)) * rstd).to(x.scalar_type());
    accumulate_grad(w, [&](Weight& weight) { weight.add_grad((dy * normalized).sum(0)); });
    return {dx, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, Weight& w, double eps) { return RmsNorm::apply(x, &w, eps); }

}  // namespace fathom::ops

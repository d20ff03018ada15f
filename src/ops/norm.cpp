#include "ops/norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/norm.h"
#include "ops/kernel_args.h"
#include "ops/runtime.h"

namespace fathom::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor dense_rows(const at::Tensor& x) { return x.stride(1) == 1 ? x : x.contiguous(); }

struct Forward {
  at::Tensor y, rstd;
};

Forward forward_by_kernel(const at::Tensor& x, const at::Tensor& weight, double eps) {
  Forward result{at::empty(x.sizes(), x.options()), at::empty({x.size(0), 1}, x.options().dtype(at::kFloat))};
  kernels::RmsNormForwardParams params;
  params.dtype = kernel_dtype(x);
  params.num_rows = x.size(0);
  params.dim = x.size(1);
  params.eps = eps;
  params.x = x.const_data_ptr();
  params.x_stride = x.stride(0);
  params.weight = weight.const_data_ptr();
  params.y = result.y.mutable_data_ptr();
  params.rstd = result.rstd.mutable_data_ptr<float>();
  kernels::rms_norm_forward(params);
  return result;
}

Forward forward_composed(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(accumulate_dtype(x));
  const at::Tensor rstd = at::rsqrt(wide.square().mean(-1, true).add_(eps));
  return {(wide * rstd).to(x.scalar_type()).mul_(weight), rstd};
}

struct Backward {
  at::Tensor dx, dweight;
};

Backward backward_by_kernel(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
                            const at::Tensor& dy) {
  Backward result{at::empty(x.sizes(), x.options()), at::zeros({x.size(1)}, x.options().dtype(at::kFloat))};
  kernels::RmsNormBackwardParams params;
  params.dtype = kernel_dtype(x);
  params.num_rows = x.size(0);
  params.dim = x.size(1);
  params.x = x.const_data_ptr();
  params.x_stride = x.stride(0);
  params.weight = weight.const_data_ptr();
  params.rstd = rstd.const_data_ptr<float>();
  params.dy = dy.const_data_ptr();
  params.dx = result.dx.mutable_data_ptr();
  params.dx_stride = x.size(1);
  params.dweight = result.dweight.mutable_data_ptr();
  kernels::rms_norm_backward(params);
  return result;
}

Backward backward_composed(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
                           const at::Tensor& grad) {
  const at::ScalarType precise = accumulate_dtype(x);
  const at::Tensor normalized = x.to(precise) * rstd, dy = grad.to(precise), g = dy * weight.to(precise);
  return {((g - normalized * (g * normalized).mean(-1, true)) * rstd).to(x.scalar_type()),
          (dy * normalized).sum(0)};
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, Weight* w, double eps) {
    const at::Tensor rows = dense_rows(x.detach());
    const Forward out =
        use_kernels(x) ? forward_by_kernel(rows, w->value, eps) : forward_composed(rows, w->value, eps);
    ctx->save_for_backward({x, out.rstd});
    ctx->saved_data["weight"] = reinterpret_cast<int64_t>(w);
    return out.y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    Weight& w = *reinterpret_cast<Weight*>(ctx->saved_data["weight"].toInt());
    const auto saved = ctx->get_saved_variables();
    const at::Tensor x = dense_rows(saved[0].detach()), dy = grads[0].contiguous();
    const Backward out = use_kernels(x) ? backward_by_kernel(x, w.value, saved[1], dy)
                                        : backward_composed(x, w.value, saved[1], dy);
    accumulate_grad(w, [dweight = out.dweight](Weight& weight) { weight.add_grad(dweight); });
    return {out.dx, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, Weight& w, double eps) { return RmsNorm::apply(x, &w, eps); }

}  // namespace fathom::ops

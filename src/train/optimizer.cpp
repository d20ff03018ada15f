#include "train/optimizer.h"

#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "kernels/adamw.h"
#include "ops/kernel_args.h"

namespace fathom::train {
namespace {

using ops::kernel_dtype;

at::ScalarType state_dtype(const weights::ParameterRegistry& registry,
                           const config::OptimizerSection& section) {
  switch (registry.precision()) {
    case config::Precision::fp64:
      return at::kDouble;
    case config::Precision::bf16_pure:
      return at::kBFloat16;
    default:
      return section.state_dtype == config::StateDtype::bf16 ? at::kBFloat16 : at::kFloat;
  }
}

kernels::ParameterForm parameter_form(const weights::Parameter& p) {
  if (p.low_bits.defined()) return kernels::ParameterForm::split;
  switch (p.value.scalar_type()) {
    case at::kDouble:
      return kernels::ParameterForm::f64;
    case at::kBFloat16:
      return kernels::ParameterForm::bf16_pure;
    default:
      return kernels::ParameterForm::f32;
  }
}

}  // namespace

Optimizer::Optimizer(weights::ParameterRegistry& registry, const config::OptimizerSection& section)
    : registry_(registry), section_(section) {
  const at::ScalarType dtype = state_dtype(registry, section);
  for (weights::Parameter& p : registry.parameters()) {
    if (!p.is_trained()) continue;
    p.exp_avg = at::zeros_like(p.value, p.value.options().dtype(dtype));
    p.exp_avg_sq = at::zeros_like(p.value, p.value.options().dtype(dtype));
  }
}

GradNorm Optimizer::grad_norm() const {
  double sum = 0;
  bool finite = true;
  for (const weights::Parameter& p : registry_.parameters()) {
    if (!p.is_trained() || p.main_grad_empty) continue;
    const kernels::SquareSum part =
        kernels::sum_of_squares(kernel_dtype(p.main_grad), p.main_grad.const_data_ptr(), p.numel());
    sum += part.sum;
    finite = finite && !part.has_nonfinite;
  }
  return {std::sqrt(sum), finite && std::isfinite(sum)};
}

void Optimizer::step(double lr, int64_t step, double grad_scale) {
  for (weights::Parameter& p : registry_.parameters()) {
    if (!p.is_trained()) continue;
    p.grad_for_adding();  // zeros where nothing came
    kernels::AdamWParams params;
    params.form = parameter_form(p);
    params.grad_type = kernel_dtype(p.main_grad);
    params.state_type = kernel_dtype(p.exp_avg);
    params.count = p.numel();
    params.param = p.value.mutable_data_ptr();
    if (p.low_bits.defined()) params.param_low = static_cast<uint16_t*>(p.low_bits.mutable_data_ptr());
    params.grad = p.main_grad.mutable_data_ptr();
    params.exp_avg = p.exp_avg.mutable_data_ptr();
    params.exp_avg_sq = p.exp_avg_sq.mutable_data_ptr();
    params.lr = lr;
    params.beta1 = section_.beta1;
    params.beta2 = section_.beta2;
    params.eps = section_.eps;
    params.weight_decay = p.is_decayed ? section_.weight_decay : 0;
    params.step = step;
    params.grad_scale = grad_scale;
    kernels::adamw(params);
  }
}

}  // namespace fathom::train

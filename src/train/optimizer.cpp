#include "train/optimizer.h"

#include <ATen/ops/zeros.h>

#include <array>
#include <cmath>
#include <span>
#include <utility>

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

Optimizer::Optimizer(weights::ParameterRegistry& registry, const config::OptimizerSection& section,
                     const CopyHolders& holders)
    : registry_(registry), section_(section), holders_(holders) {
  const at::ScalarType dtype = state_dtype(registry, section);
  std::vector<weights::Parameter*> trained;
  for (weights::Parameter& p : registry.parameters()) {
    if (!p.is_stepped()) continue;
    p.exp_avg = at::zeros(p.state_shape(), p.value.options().dtype(dtype));
    p.exp_avg_sq = at::zeros(p.state_shape(), p.value.options().dtype(dtype));
    trained.push_back(&p);
  }
  if (registry.sharding().shards_state) exchanged_ = make_buckets(trained);
}

GradNorm Optimizer::grad_norm() const {
  std::array<double, 2> sums = {0, 0};  // of squares; of tensors that are not finite
  for (const weights::Parameter& p : registry_.parameters()) {
    if (!p.is_stepped() || (p.replica.size == 1 && p.main_grad_empty)) continue;
    const kernels::SquareSum part =
        kernels::sum_of_squares(kernel_dtype(p.grad_share), p.grad_share.const_data_ptr(), p.share.count());
    sums[0] += part.sum;
    sums[1] += part.has_nonfinite ? 1 : 0;
  }
  // The shares of all ranks are every parameter once (PAR-3).
  if (holders_.all) holders_.all->all_reduce(std::span(sums));
  return {std::sqrt(sums[0]), sums[1] == 0 && std::isfinite(sums[0])};
}

void Optimizer::step(double lr, int64_t step, double grad_scale) {
  for (weights::Parameter& p : registry_.parameters()) {
    if (!p.is_stepped()) continue;
    if (p.replica.size == 1) p.grad_for_adding();  // zeros where nothing came
    if (p.state.empty()) continue;
    const at::Tensor value = p.value_of(p.state), grad = p.state == p.share ? p.grad_share : p.main_grad;
    kernels::AdamWParams params;
    params.form = parameter_form(p);
    params.grad_type = kernel_dtype(grad);
    params.state_type = kernel_dtype(p.exp_avg);
    params.count = p.state.count();
    params.param = value.mutable_data_ptr();
    if (p.low_bits.defined()) params.param_low = static_cast<uint16_t*>(p.low_bits.mutable_data_ptr());
    params.grad = grad.mutable_data_ptr();
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
  for (const ShareBucket& bucket : exchanged_)
    bucket.gather(holders_.of(bucket.first()), bucket.first().value.scalar_type(),
                  [](weights::Parameter& p) { return p.value; });
}

}  // namespace fathom::train

#include <bit>
#include <cmath>

#include "kernels/dispatch.h"
#include "kernels/reference/values.h"

namespace fathom::kernels::reference {
namespace {

float merged(bf16 hi, uint16_t lo) {
  const uint32_t low = static_cast<uint32_t>(static_cast<int32_t>(static_cast<int16_t>(lo)));
  return std::bit_cast<float>((static_cast<uint32_t>(hi.bits) << 16) + low);
}

void split(float master, bf16& hi, uint16_t& lo) {
  const uint32_t u = std::bit_cast<uint32_t>(master);
  hi.bits = static_cast<uint16_t>((u + 0x8000u) >> 16);
  lo = static_cast<uint16_t>(u);
}

// In double, rounded where it is stored.
template <typename Grad, typename State>
void update(const AdamWParams& p, int64_t begin, int64_t end) {
  Grad* grad = static_cast<Grad*>(p.grad);
  State* exp_avg = static_cast<State*>(p.exp_avg);
  State* exp_avg_sq = static_cast<State*>(p.exp_avg_sq);
  const double t = static_cast<double>(p.step);
  const double correction1 = 1 - std::pow(p.beta1, t), correction2 = 1 - std::pow(p.beta2, t);
  for (int64_t i = begin; i < end; ++i) {
    double x = 0;
    switch (p.form) {
      case ParameterForm::f32:
        x = static_cast<float*>(p.param)[i];
        break;
      case ParameterForm::split:
        x = merged(static_cast<bf16*>(p.param)[i], p.param_low[i]);
        break;
      case ParameterForm::bf16_pure:
        x = to_float(static_cast<bf16*>(p.param)[i]);
        break;
      case ParameterForm::f64:
        x = static_cast<double*>(p.param)[i];
        break;
    }
    const double g = get(grad + i) * p.grad_scale;
    const double m = get(exp_avg + i) + (1 - p.beta1) * (g - get(exp_avg + i));
    const double v = p.beta2 * get(exp_avg_sq + i) + (1 - p.beta2) * g * g;
    x -= p.lr * p.weight_decay * x;
    x -= p.lr / correction1 * m / (std::sqrt(v) / std::sqrt(correction2) + p.eps);
    put(exp_avg + i, m);
    put(exp_avg_sq + i, v);
    if (p.zero_grad) put(grad + i, 0);
    switch (p.form) {
      case ParameterForm::f32:
        static_cast<float*>(p.param)[i] = static_cast<float>(x);
        break;
      case ParameterForm::split:
        split(static_cast<float>(x), static_cast<bf16*>(p.param)[i], p.param_low[i]);
        break;
      case ParameterForm::bf16_pure:
        put(static_cast<bf16*>(p.param) + i, x);
        break;
      case ParameterForm::f64:
        static_cast<double*>(p.param)[i] = x;
        break;
    }
  }
}

}  // namespace

void adamw_range(const AdamWParams& params, int64_t begin, int64_t end) {
  if (params.form == ParameterForm::f64) return update<double, double>(params, begin, end);
  with_type(params.grad_type, [&](auto grad) {
    with_type(params.state_type,
              [&](auto state) { update<decltype(grad), decltype(state)>(params, begin, end); });
  });
}

void split_range(const float* master, bf16* hi, uint16_t* lo, int64_t count) {
  for (int64_t i = 0; i < count; ++i) split(master[i], hi[i], lo[i]);
}

void merge_range(const bf16* hi, const uint16_t* lo, float* master, int64_t count) {
  for (int64_t i = 0; i < count; ++i) master[i] = merged(hi[i], lo[i]);
}

SquareSum square_sum_chunk(DType type, const void* values, int64_t begin, int64_t end) {
  SquareSum result;
  with_type(type, [&](auto value) {
    const auto* x = static_cast<const decltype(value)*>(values);
    for (int64_t i = begin; i < end; ++i) {
      result.sum += get(x + i) * get(x + i);
      result.has_nonfinite |= !std::isfinite(get(x + i));
    }
  });
  return result;
}

}  // namespace fathom::kernels::reference

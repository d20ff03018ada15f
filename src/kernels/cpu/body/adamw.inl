#include "kernels/adamw.h"
#include "kernels/cpu/body/vec.h"
#include "kernels/dispatch.h"

namespace fathom::kernels::FATHOM_SET {
namespace {

FATHOM_INLINE Vec load_split(const bf16* hi, const uint16_t* lo, int64_t n) {
  // A bf16 load puts the 16 bits into the high half.
  const IVec low = high_half_signed(bits(load_n(reinterpret_cast<const bf16*>(lo), n)));
  return from_bits(add(bits(load_n(hi, n)), low));
}
FATHOM_INLINE void store_split(bf16* hi, uint16_t* lo, Vec master, int64_t n) {
  const IVec u = bits(master);
  store_low_halves(reinterpret_cast<U16*>(hi), high_half(add(u, splat_int(0x8000))), n);
  store_low_halves(lo, u, n);
}

// Each form of a parameter: load and store of n values at i as fp32.
struct PlainF32 {
  float* p;
  FATHOM_INLINE Vec get(int64_t i, int64_t n) const { return load_n(p + i, n); }
  FATHOM_INLINE void put(int64_t i, Vec x, int64_t n) const { store_n(p + i, x, n); }
};
struct PlainBf16 {
  bf16* p;
  FATHOM_INLINE Vec get(int64_t i, int64_t n) const { return load_n(p + i, n); }
  FATHOM_INLINE void put(int64_t i, Vec x, int64_t n) const { store_n(p + i, x, n); }
};
struct Split {
  bf16* hi;
  uint16_t* lo;
  FATHOM_INLINE Vec get(int64_t i, int64_t n) const { return load_split(hi + i, lo + i, n); }
  FATHOM_INLINE void put(int64_t i, Vec x, int64_t n) const { store_split(hi + i, lo + i, x, n); }
};

template <typename Param, typename Grad, typename State>
void update(const AdamWParams& p, Param param, int64_t begin, int64_t end) {
  Grad* grad = static_cast<Grad*>(p.grad);
  State* exp_avg = static_cast<State*>(p.exp_avg);
  State* exp_avg_sq = static_cast<State*>(p.exp_avg_sq);
  const double t = static_cast<double>(p.step);
  const double correction1 = 1 - __builtin_pow(p.beta1, t), correction2 = 1 - __builtin_pow(p.beta2, t);
  const Vec grad_scale = splat(static_cast<float>(p.grad_scale)),
            decay = splat(static_cast<float>(1 - p.lr * p.weight_decay));
  const Vec one_minus_beta1 = splat(static_cast<float>(1 - p.beta1)),
            beta2 = splat(static_cast<float>(p.beta2));
  const Vec one_minus_beta2 = splat(static_cast<float>(1 - p.beta2)), eps = splat(static_cast<float>(p.eps));
  const Vec step_size = splat(static_cast<float>(p.lr / correction1));
  const Vec root_scale = splat(static_cast<float>(1 / __builtin_sqrt(correction2)));
  const bool zero_grad = p.zero_grad;
  FATHOM_FOR_VECTORS(i, begin, end, {
    const Vec g = load_n(grad + i, n) * grad_scale;
    Vec m = load_n(exp_avg + i, n);
    m = fma(one_minus_beta1, g - m, m);
    const Vec v = fma(one_minus_beta2, g * g, beta2 * load_n(exp_avg_sq + i, n));
    const Vec denominator = fma(sqrt(v), root_scale, eps);
    param.put(i, fnma(step_size, m / denominator, param.get(i, n) * decay), n);
    store_n(exp_avg + i, m, n);
    store_n(exp_avg_sq + i, v, n);
    if (zero_grad) store_n(grad + i, zero(), n);
  });
}

template <typename Param>
void update_by_types(const AdamWParams& p, Param param, int64_t begin, int64_t end) {
  const bool grad_is_bf16 = p.grad_type == DType::bf16, state_is_bf16 = p.state_type == DType::bf16;
  if (grad_is_bf16) {
    state_is_bf16 ? update<Param, bf16, bf16>(p, param, begin, end)
                  : update<Param, bf16, float>(p, param, begin, end);
  } else {
    state_is_bf16 ? update<Param, float, bf16>(p, param, begin, end)
                  : update<Param, float, float>(p, param, begin, end);
  }
}

template <typename T>
double square_sum(const T* values, int64_t begin, int64_t end) {
  DoubleVec sums[4] = {zero_double(), zero_double(), zero_double(), zero_double()};
  int64_t i = begin;
  for (; i + 4 * kWidth <= end; i += 4 * kWidth) {
#pragma GCC unroll 4
    for (int64_t s = 0; s < 4; ++s) sums[s] = add_squares(sums[s], load(values + i + s * kWidth));
  }
  for (; i < end; i += kWidth) sums[0] = add_squares(sums[0], load_n(values + i, min_of(kWidth, end - i)));
  return sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

}  // namespace

void adamw_range(const AdamWParams& params, int64_t begin, int64_t end) {
  switch (params.form) {
    case ParameterForm::f32:
      return update_by_types(params, PlainF32{static_cast<float*>(params.param)}, begin, end);
    case ParameterForm::split:
      return update_by_types(params, Split{static_cast<bf16*>(params.param), params.param_low}, begin, end);
    case ParameterForm::bf16_pure:
      return update_by_types(params, PlainBf16{static_cast<bf16*>(params.param)}, begin, end);
    case ParameterForm::f64:
      return;  // the reference has it
  }
}

void split_range(const float* master, bf16* hi, uint16_t* lo, int64_t count) {
  FATHOM_FOR_VECTORS(i, 0, count, store_split(hi + i, lo + i, load_n(master + i, n), n););
}

void merge_range(const bf16* hi, const uint16_t* lo, float* master, int64_t count) {
  FATHOM_FOR_VECTORS(i, 0, count, store_n(master + i, load_split(hi + i, lo + i, n), n););
}

SquareSum square_sum_chunk(DType type, const void* values, int64_t begin, int64_t end) {
  const double sum = type == DType::bf16 ? square_sum(static_cast<const bf16*>(values), begin, end)
                                         : square_sum(static_cast<const float*>(values), begin, end);
  return {sum, !__builtin_isfinite(sum)};  // squares of finite fp32 numbers cannot overflow a double
}

}  // namespace fathom::kernels::FATHOM_SET

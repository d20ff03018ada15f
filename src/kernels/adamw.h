// AdamW (arXiv 1711.05101) over a contiguous range of one parameter: one pass over parameter, gradient and
// moments. The formula is that of torch.optim.AdamW: with g = grad * grad_scale and t = step (1 for the
// first),
//   p -= lr * weight_decay * p;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
// Arithmetic in fp32 (double for f64 parameters); moments kept in bf16 are rounded to nearest even after use.
//
// A split master is an fp32 number cut into a bf16 `hi`, which is the working weight, and 16 low bits: with u
// the bits of the fp32 number as a uint32, hi = (u + 0x8000) >> 16 (rounding to nearest, halves away from
// zero) and lo = u & 0xffff; u is recovered as (hi << 16) + sign_extend(lo), all modulo 2^32. Exact for every
// finite number and infinity. The largest finite values round to infinity in hi as usual; a NaN master may
// read as another NaN or infinity.
#pragma once

#include <cstdint>

#include "base/bfloat16.h"
#include "kernels/dtype.h"

namespace fathom::kernels {

enum class ParameterForm {
  f32,        // param: float
  split,      // param: bf16 hi; param_low: uint16 lo; together the fp32 master
  bf16_pure,  // param: bf16, rounded to nearest even after the step
  f64,        // param, grad and moments: double
};

struct AdamWParams {
  ParameterForm form = ParameterForm::f32;
  DType grad_type = DType::f32;   // f32 or bf16 (f64 for ParameterForm::f64)
  DType state_type = DType::f32;  // f32 or bf16 (f64 for ParameterForm::f64)
  int64_t count = 0;
  void* param = nullptr;          // [count]
  uint16_t* param_low = nullptr;  // [count], split only
  void* grad = nullptr;           // [count]; written only where zero_grad
  void* exp_avg = nullptr;        // [count] m
  void* exp_avg_sq = nullptr;     // [count] v
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  int64_t step = 1;        // t, from 1
  double grad_scale = 1;   // clipping factor, applied to the gradient as it is read
  bool zero_grad = false;  // leave zeros in grad
};
void adamw(const AdamWParams& params);

// fp32 <-> split master, count elements; `hi` and `lo` must not overlap `master`.
void split_masters(const float* master, bf16* hi, uint16_t* lo, int64_t count);
void merge_masters(const bf16* hi, const uint16_t* lo, float* master, int64_t count);

struct SquareSum {
  double sum = 0;              // of squares, each rounded to double before adding
  bool has_nonfinite = false;  // a NaN or infinity among the values
};
// Partial sums of fixed 65,536-element chunks in a fixed order of lanes, added in order of the chunks: the
// same bits for any number of threads. (Between instruction sets the last bits may differ.)
SquareSum sum_of_squares(DType type, const void* values, int64_t count);

}  // namespace fathom::kernels

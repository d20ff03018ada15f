#include <cmath>

#include "kernels/dispatch.h"
#include "kernels/reference/values.h"

namespace fathom::kernels::reference {
namespace {

template <typename T>
void forward_rows(const RmsNormForwardParams& p, int64_t begin, int64_t end) {
  const T* weight = static_cast<const T*>(p.weight);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
    if (p.residual) {
      const T* residual = static_cast<const T*>(p.residual) + row * p.residual_stride;
      T* sum = static_cast<T*>(p.sum) + row * p.dim;
      for (int64_t i = 0; i < p.dim; ++i) put(sum + i, get(x + i) + get(residual + i));
      x = sum;
    }
    double squares = 0;
    for (int64_t i = 0; i < p.dim; ++i) squares += get(x + i) * get(x + i);
    const double rstd = 1 / std::sqrt(squares / static_cast<double>(p.dim) + p.eps);
    if (p.rstd) p.rstd[row] = static_cast<float>(rstd);
    T* y = static_cast<T*>(p.y) + row * p.dim;
    for (int64_t i = 0; i < p.dim; ++i) {
      const T normalised = rounded<T>(get(x + i) * rstd);
      put(y + i, get(&normalised) * get(weight + i));
    }
  }
}

template <typename T, typename Sum>
void backward_rows(const RmsNormBackwardParams& p, int64_t begin, int64_t end, Sum* dweight) {
  const T* weight = static_cast<const T*>(p.weight);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
    const T* dy = static_cast<const T*>(p.dy) + row * p.dim;
    const double rstd = p.rstd[row];
    double mean = 0;
    for (int64_t i = 0; i < p.dim; ++i) mean += get(dy + i) * get(weight + i) * get(x + i) * rstd;
    mean /= static_cast<double>(p.dim);
    for (int64_t i = 0; i < p.dim; ++i) {
      const double normalised = get(x + i) * rstd, gradient = get(dy + i);
      if (dweight) dweight[i] = static_cast<Sum>(dweight[i] + gradient * normalised);
      if (!p.dx) continue;
      double result = rstd * (gradient * get(weight + i) - normalised * mean);
      if (p.dresidual) result += get(static_cast<const T*>(p.dresidual) + row * p.dim + i);
      put(static_cast<T*>(p.dx) + row * p.dx_stride + i, result);
    }
  }
}

}  // namespace

void rms_norm_forward_rows(const RmsNormForwardParams& params, int64_t begin, int64_t end) {
  with_type(params.dtype, [&](auto type) { forward_rows<decltype(type)>(params, begin, end); });
}

void rms_norm_backward_rows(const RmsNormBackwardParams& params, int64_t begin, int64_t end, void* dweight) {
  switch (params.dtype) {
    case DType::f64:
      return backward_rows<double>(params, begin, end, static_cast<double*>(dweight));
    case DType::f32:
      return backward_rows<float>(params, begin, end, static_cast<float*>(dweight));
    case DType::bf16:
      return backward_rows<bf16>(params, begin, end, static_cast<float*>(dweight));
  }
}

}  // namespace fathom::kernels::reference

#include "kernels/cpu/body/vec.h"
#include "kernels/dispatch.h"
#include "kernels/norm.h"

namespace fathom::kernels::FATHOM_SET {
namespace {

template <typename T>
float mean_square(const T* x, int64_t dim) {
  Vec sums[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * kWidth <= dim; i += 4 * kWidth) {
#pragma GCC unroll 4
    for (int64_t s = 0; s < 4; ++s) {
      const Vec value = load(x + i + s * kWidth);
      sums[s] = fma(value, value, sums[s]);
    }
  }
  for (; i < dim; i += kWidth) {
    const Vec value = load_n(x + i, min_of(kWidth, dim - i));
    sums[0] = fma(value, value, sums[0]);
  }
  return sum_of((sums[0] + sums[1]) + (sums[2] + sums[3])) / static_cast<float>(dim);
}

template <typename T>
void forward_rows(const RmsNormForwardParams& p, int64_t begin, int64_t end) {
  const T* weight = static_cast<const T*>(p.weight);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
    if (p.residual) {
      const T* residual = static_cast<const T*>(p.residual) + row * p.residual_stride;
      T* sum = static_cast<T*>(p.sum) + row * p.dim;
      FATHOM_FOR_VECTORS(i, 0, p.dim, store_n(sum + i, load_n(x + i, n) + load_n(residual + i, n), n););
      x = sum;
    }
    const float rstd = 1.0f / __builtin_sqrtf(mean_square(x, p.dim) + static_cast<float>(p.eps));
    if (p.rstd) p.rstd[row] = rstd;
    T* y = static_cast<T*>(p.y) + row * p.dim;
    const Vec factor = splat(rstd);
    FATHOM_FOR_VECTORS(i, 0, p.dim, {
      const Vec normalised = rounded_as(x, load_n(x + i, n) * factor);
      store_n(y + i, normalised * load_n(weight + i, n), n);
    });
  }
}

template <typename T>
void backward_rows(const RmsNormBackwardParams& p, int64_t begin, int64_t end, float* dweight) {
  const T* weight = static_cast<const T*>(p.weight);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
    const T* dy = static_cast<const T*>(p.dy) + row * p.dim;
    const T* dresidual = p.dresidual ? static_cast<const T*>(p.dresidual) + row * p.dim : nullptr;
    T* dx = p.dx ? static_cast<T*>(p.dx) + row * p.dx_stride : nullptr;
    const float rstd = p.rstd[row];
    Vec products = zero();
    FATHOM_FOR_VECTORS(
        i, 0, p.dim, products = fma(load_n(dy + i, n) * load_n(weight + i, n), load_n(x + i, n), products););
    const Vec rstd_vec = splat(rstd);
    const Vec pull = splat(rstd * rstd * rstd * sum_of(products) / static_cast<float>(p.dim));
    FATHOM_FOR_VECTORS(i, 0, p.dim, {
      const Vec value = load_n(x + i, n), gradient = load_n(dy + i, n);
      if (dweight) store_n(dweight + i, fma(gradient * rstd_vec, value, load_n(dweight + i, n)), n);
      if (dx) {
        Vec result = fnma(value, pull, gradient * load_n(weight + i, n) * rstd_vec);
        if (dresidual) result = result + load_n(dresidual + i, n);
        store_n(dx + i, result, n);
      }
    });
  }
}

}  // namespace

void rms_norm_forward_rows(const RmsNormForwardParams& params, int64_t begin, int64_t end) {
  params.dtype == DType::bf16 ? forward_rows<bf16>(params, begin, end)
                              : forward_rows<float>(params, begin, end);
}

void rms_norm_backward_rows(const RmsNormBackwardParams& params, int64_t begin, int64_t end, void* dweight) {
  float* sums = static_cast<float*>(dweight);
  params.dtype == DType::bf16 ? backward_rows<bf16>(params, begin, end, sums)
                              : backward_rows<float>(params, begin, end, sums);
}

}  // namespace fathom::kernels::FATHOM_SET

// RMSNorm (arXiv 1910.07467): y = w * round(x * rstd), rstd = 1 / sqrt(mean(x^2) + eps), optionally after x
// += residual. The normalised value is rounded to the activations' dtype before the product with w and the
// product again, as HF transformers does. Statistics in fp32 (reference: double), rows independent of one
// another.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace fathom::kernels {

struct RmsNormForwardParams {
  DType dtype = DType::f32;  // of x, residual, sum, weight, y
  int64_t num_rows = 0;      // T
  int64_t dim = 0;           // D
  double eps = 1e-6;
  const void* x = nullptr;  // [T, D], row stride x_stride
  int64_t x_stride = 0;
  const void* residual = nullptr;  // [T, D], row stride residual_stride; may be null
  int64_t residual_stride = 0;
  void* sum = nullptr;  // [T, D] dense: x + residual rounded to dtype, which is what gets normalised; may be
                        // x itself (x_stride = D); null where residual is null
  const void* weight = nullptr;  // [D]
  void* y = nullptr;             // [T, D] dense; may be x (no residual)
  float* rstd = nullptr;         // [T]; may be null
};
void rms_norm_forward(const RmsNormForwardParams& params);

// With n = x * rstd: dx = rstd * (w dy - n * mean(w dy n));  dw = sum over rows of dy * n (fp32, n not
// rounded).
struct RmsNormBackwardParams {
  DType dtype = DType::f32;
  int64_t num_rows = 0;
  int64_t dim = 0;
  const void* x = nullptr;  // [T, D] what was normalised, row stride x_stride
  int64_t x_stride = 0;
  const void* weight = nullptr;  // [D]
  const float* rstd = nullptr;   // [T] of forward
  const void* dy = nullptr;      // [T, D] dense
  const void* dresidual =
      nullptr;  // [T, D] dense, added to dx before rounding (the gradient that skips the norm); may be null
  void* dx = nullptr;  // [T, D], row stride dx_stride; may be dy or dresidual; may be null
  int64_t dx_stride = 0;
  void* dweight = nullptr;  // [D] added to; may be null. Rows are summed in fixed blocks
                            // of 64 in order: the same bits for any number of threads
};
void rms_norm_backward(const RmsNormBackwardParams& params);

}  // namespace fathom::kernels

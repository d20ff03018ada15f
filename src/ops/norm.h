// RMSNorm (arXiv 1910.07467): y = w * (x * rsqrt(mean(x^2) + eps)).
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/weight.h"

namespace fathom::ops {

// x [T, D] (rows may be strided, columns dense), w.value [D]. Statistics in float (double for double); the normalised
// value is rounded to x's dtype before the product with w, as HF transformers does.
at::Tensor rms_norm(const at::Tensor& x, Weight& w, double eps);

}  // namespace fathom::ops

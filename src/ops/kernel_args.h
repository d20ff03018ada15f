// From ATen tensors to the kernels' plain arguments.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/dtype.h"

namespace fathom::ops {

// float, bfloat16 or double; anything else is our bug.
kernels::DType kernel_dtype(const at::Tensor& t);

}  // namespace fathom::ops

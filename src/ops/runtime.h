// Start-up of the tensor library: the process's one set of threads, and the choice of body for an operation.
#pragma once

#include <ATen/core/Tensor.h>

namespace fathom::ops {

// Puts base::parallel_for on ATen's pool and sets both to `threads` (0: the cores allowed to this process).
// Also makes subnormals flush to zero off (bits stay those of IEEE arithmetic). Idempotent.
void initialize_runtime(int threads);

// True when the CPU kernels may run on this tensor: isa() is not aten, and it is a CPU tensor of float or bfloat16.
bool use_kernels(const at::Tensor& x);

// The dtype in which an operation on x accumulates: double for double, else float.
at::ScalarType accumulate_dtype(const at::Tensor& x);

}  // namespace fathom::ops

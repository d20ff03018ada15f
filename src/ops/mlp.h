// The gated MLP's second half: y = (silu(gate) * up) W_down^T.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/weight.h"

namespace fathom::ops {

// gate_up [T, 2F] (gate columns first), w_down.value [D, F] -> [T, D]. Only gate_up is kept for backward; the
// activation is computed again there (it costs F multiplications a token, keeping it T*F values).
at::Tensor swiglu_linear(const at::Tensor& gate_up, Weight& w_down);

}  // namespace fathom::ops

// SwiGLU (arXiv 2002.05202): a = silu(g) * u with g, u the halves of gate_up. Computed in fp32, rounded once.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace fathom::kernels {

struct SwigluForwardParams {
  DType dtype = DType::f32;
  int64_t num_rows = 0;           // T
  int64_t dim = 0;                // F
  const void* gate_up = nullptr;  // [T, 2F] dense, gate first
  void* activation = nullptr;     // [T, F] dense
};
void swiglu_forward(const SwigluForwardParams& params);

//   dg = da * u * sigmoid(g) * (1 + g (1 - sigmoid(g)));  du = da * silu(g)
struct SwigluBackwardParams {
  DType dtype = DType::f32;
  int64_t num_rows = 0;
  int64_t dim = 0;
  const void* gate_up = nullptr;      // [T, 2F]
  const void* dactivation = nullptr;  // [T, F]
  void* dgate_up = nullptr;           // [T, 2F]; may be gate_up
  void* activation =
      nullptr;  // [T, F] the forward's output again, bit for bit; may be dactivation; may be null
};
void swiglu_backward(const SwigluBackwardParams& params);

}  // namespace fathom::kernels

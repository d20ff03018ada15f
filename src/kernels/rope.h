// Rotary embedding on adjacent pairs (arXiv 2104.09864; the layout of DeepSeek's weights): with angle tables
// of the token's position, (a, b) = (x[2i], x[2i+1]) becomes (a cos_i - b sin_i, a sin_i + b cos_i), or with
// the opposite angle (inverse: the backward of the rotation). Computed in fp32, rounded once; y may be x.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace fathom::kernels {

struct RopeParams {
  DType dtype = DType::f32;
  int64_t num_tokens = 0;   // T
  int64_t num_heads = 0;    // N
  int64_t rope_dim = 0;     // R, even
  const void* x = nullptr;  // [T, N, R]: point at the first rotated value of token 0, head 0
  int64_t x_token_stride = 0, x_head_stride = 0;
  void* y = nullptr;  // [T, N, R]
  int64_t y_token_stride = 0, y_head_stride = 0;
  const float* cos = nullptr;  // [P, R/2], amplitude (YaRN mscale) included; const double* for f64: cos_f64
  const float* sin = nullptr;  // [P, R/2]
  const double* cos_f64 = nullptr;  // used in place of cos and sin where dtype is f64
  const double* sin_f64 = nullptr;
  const int32_t* position_ids = nullptr;  // [T] rows of the tables; may be null: row t for token t
  bool inverse = false;
};
void rope(const RopeParams& params);

}  // namespace fathom::kernels

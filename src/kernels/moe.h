// Moving tokens to their experts and back (DeepSeek-V3 report §2.1.2, eq. 12), dropless. Rows are the (token,
// choice) pairs sorted by expert, then by token: S = T * K of them.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace fathom::kernels {

// Counting sort. Any output may be null except offsets.
struct MoePlanParams {
  int64_t num_tokens = 0;            // T
  int64_t num_choices = 0;           // K, the experts of one token are distinct
  int64_t num_experts = 0;           // E
  const int32_t* indices = nullptr;  // [T, K] in [0, E), checked by the caller
  int64_t* counts = nullptr;         // [E]
  int64_t* offsets = nullptr;        // [E + 1]: rows of expert e are [offsets[e], offsets[e + 1])
  int32_t* row_token = nullptr;      // [S] token of each row
  int32_t* row_choice = nullptr;     // [S] t * K + k of each row
  int32_t* choice_row = nullptr;     // [T, K] row of each choice (the inverse of row_choice)
};
void moe_plan(const MoePlanParams& params);

// rows[s] = x[row_token[s]]
struct MoeGatherParams {
  DType dtype = DType::f32;
  int64_t num_rows = 0;     // S, or a part of it: offset row_token and rows alike
  int64_t dim = 0;          // D
  const void* x = nullptr;  // [T, D], row stride x_stride
  int64_t x_stride = 0;
  const int32_t* row_token = nullptr;  // [S]
  void* rows = nullptr;                // [S, D] dense
};
void moe_gather(const MoeGatherParams& params);

// y[t] = sum_k weights[t, k] * rows[choice_row[t, k]], summed in fp32 in the order of k, rounded once;
// without weights the backward of the gather. `add` (a shared expert, a residual) joins the sum last.
struct MoeCombineParams {
  DType dtype = DType::f32;
  int64_t num_tokens = 0, num_choices = 0, dim = 0;
  const void* rows = nullptr;           // [S, D] dense
  const int32_t* choice_row = nullptr;  // [T, K]
  const float* weights = nullptr;       // [T, K]; may be null: ones
  const void* add = nullptr;            // [T, D] dense; may be null; may be y
  void* y = nullptr;                    // [T, D] dense
};
void moe_combine(const MoeCombineParams& params);

// drows[s] = w * dy[t], dweights[t, k] = <dy[t], rows[s]> (fp32) with s = choice_row[t, k].
struct MoeCombineBackwardParams {
  DType dtype = DType::f32;
  int64_t num_tokens = 0, num_choices = 0, dim = 0;
  const void* rows = nullptr;           // [S, D]; may be null where dweights is
  const int32_t* choice_row = nullptr;  // [T, K]
  const float* weights = nullptr;       // [T, K]; may be null: ones
  const void* dy = nullptr;             // [T, D] dense
  void* drows = nullptr;                // [S, D] dense; may be rows; may be null
  float* dweights = nullptr;            // [T, K]; may be null
};
void moe_combine_backward(const MoeCombineBackwardParams& params);

}  // namespace fathom::kernels

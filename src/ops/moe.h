// Dropless experts (report §2.1.2, eq. 12): permute -> grouped GEMM -> SwiGLU -> grouped GEMM -> weighted un-permute,
// one autograd function with hand-written backward.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "ops/weight.h"

namespace fathom::ops {

// Where each (token, choice) pair goes: rows sorted by expert, then by token. The one place that reads routing on the
// host; a dry run on meta tensors gets a balanced plan.
struct DispatchPlan {
  int64_t num_tokens = 0, num_choices = 0, num_experts = 0;  // T, K, E
  std::vector<int64_t> offsets;  // [E + 1]: rows of expert e are [offsets[e], offsets[e+1])
  at::Tensor row_token;          // [S = T*K] int32: the token of each row
  at::Tensor row_choice;         // [S] int32: flat index t*K + k of each row
  at::Tensor choice_row;         // [T, K] int32: the row of each choice
  int64_t count(int64_t expert) const { return offsets[expert + 1] - offsets[expert]; }
};
DispatchPlan plan_dispatch(const at::Tensor& indices, int64_t num_experts);  // indices int32 [T, K]

// The two ends of it, without gradients: rows[s] = x[row_token[s]], [S, D]; and y[t] = sum_k weights[t, k] *
// rows[choice_row[t, k]], summed in float (`weights` undefined: ones), [T, D].
at::Tensor gather_rows(const at::Tensor& x, const DispatchPlan& plan);
at::Tensor combine_rows(const at::Tensor& rows, const at::Tensor& weights, const DispatchPlan& plan);

// x [T, D]; weights [T, K] float; gate_up.value [E, 2F, D] (gate rows first), down.value [E, D, F] -> [T, D]:
// y[t] = sum_k weights[t, k] * expert_{indices[t, k]}(x[t]), summed in float. Gradients for x and weights; those of the
// experts go to their sinks. Kept for backward: x, the rows' gate_up products, weights.
at::Tensor moe_experts(const at::Tensor& x, const at::Tensor& weights, const DispatchPlan& plan,
                       Weight& gate_up, Weight& down);

}  // namespace fathom::ops

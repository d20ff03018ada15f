// Expert parallelism: rows of tokens travel to the ranks that hold their experts, and back. Every rank of the expert
// group takes part whatever its tokens chose.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "ops/moe.h"
#include "parallel/communicator.h"

namespace fathom::model {

// Who sends how many rows to whom, and the experts of the rows that arrive.
struct ExpertTraffic {
  parallel::Communicator* group = nullptr;
  ops::DispatchPlan plan;                     // of this rank's tokens over all experts
  std::vector<int64_t> send_rows, recv_rows;  // by place; the rows that arrive lie by place, then by expert
  ops::DispatchPlan
      arrived;  // "tokens" are the rows that arrived, each with one choice among this rank's experts
};
using ExpertTrafficPtr = std::shared_ptr<const ExpertTraffic>;

// indices int32 [T, K] of this rank's tokens; experts [first, last) of place p are E*p/n ... E*(p+1)/n.
ExpertTrafficPtr plan_traffic(const at::Tensor& indices, int64_t num_experts, parallel::Communicator& group);

struct ArrivedRows {
  at::Tensor rows;     // [R, D]
  at::Tensor weights;  // [R, 1] float
};
// x [T, D], weights [T, K]: to the experts' ranks. Differentiable in both.
ArrivedRows send_to_experts(const at::Tensor& x, const at::Tensor& weights, const ExpertTrafficPtr& traffic);
// rows [R, D], weighted already -> y [T, D]: summed over the choices of each token.
at::Tensor return_from_experts(const at::Tensor& rows, const ExpertTrafficPtr& traffic);

}  // namespace fathom::model

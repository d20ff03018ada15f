#include "quantize/input_statistics.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/amin.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/mm.h>

namespace fathom::quantize {

void ChannelRanges::add(const at::Tensor& x) {
  if (x.size(0) == 0) return;
  const at::Tensor low = at::amin(x, {0}).to(at::kFloat), high = at::amax(x, {0}).to(at::kFloat);
  const at::Tensor exact = x.to(at::kDouble), squares = (exact * exact).sum(0);
  minimum = rows == 0 ? low : at::minimum(minimum, low);
  maximum = rows == 0 ? high : at::maximum(maximum, high);
  square_sum = rows == 0 ? squares : square_sum + squares;
  rows += x.size(0);
}

void ChannelRanges::divide(const at::Tensor& scales) {
  if (rows == 0) return;
  minimum = minimum / scales;
  maximum = maximum / scales;
  square_sum = square_sum / scales / scales;
}

at::Tensor ChannelRanges::largest() const { return at::maximum(maximum.abs(), minimum.abs()); }

void add_to_hessian(at::Tensor& hessian, const at::Tensor& rows) {
  const at::Tensor x = rows.to(at::kFloat);
  const at::Tensor product = at::mm(x.t(), x).to(at::kDouble);
  hessian = hessian.defined() ? hessian.add_(product) : product;
}

void InputStatistics::observe(const ops::Weight& weight, const at::Tensor& x) {
  Inputs& inputs = inputs_[&weight];
  inputs.ranges.add(x);
  if (wants_hessians_) add_to_hessian(inputs.hessian, x);
}

void InputStatistics::observe_experts(const ops::Weight& weight, const at::Tensor& x,
                                      const ops::DispatchPlan& plan) {
  inputs_[&weight].ranges.add(x);
  expert_rows_.resize(static_cast<size_t>(plan.num_experts), 0);
  for (int64_t e = 0; e < plan.num_experts; ++e) expert_rows_[static_cast<size_t>(e)] += plan.count(e);
  experts_ = &weight;
  if (wants_hessians_) routed_.push_back({x, plan});
}

void InputStatistics::divide(const ops::Weight& weight, const at::Tensor& scales) {
  const auto found = inputs_.find(&weight);
  if (found == inputs_.end()) return;
  Inputs& inputs = found->second;
  inputs.ranges.divide(scales);
  if (inputs.hessian.defined()) {
    const at::Tensor exact = scales.to(at::kDouble);
    inputs.hessian.div_(exact.unsqueeze(0)).div_(exact.unsqueeze(1));
  }
  if (&weight != experts_) return;
  for (Routed& routed : routed_) routed.x = routed.x / scales.to(routed.x.scalar_type());
}

const InputStatistics::Inputs* InputStatistics::find(const ops::Weight& weight) const {
  const auto found = inputs_.find(&weight);
  return found == inputs_.end() ? nullptr : &found->second;
}

at::Tensor InputStatistics::rows_of_expert(int64_t expert) const {
  std::vector<at::Tensor> rows;
  for (const Routed& routed : routed_) {
    const int64_t begin = routed.plan.offsets[static_cast<size_t>(expert)], count = routed.plan.count(expert);
    if (count > 0)
      rows.push_back(
          at::index_select(routed.x, 0, routed.plan.row_token.narrow(0, begin, count)).to(at::kFloat));
  }
  if (rows.empty())
    return at::empty({0, routed_.empty() ? 0 : routed_[0].x.size(1)}, at::TensorOptions().dtype(at::kFloat));
  return at::cat(rows, 0);
}

}  // namespace fathom::quantize

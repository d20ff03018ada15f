// What calibration keeps of the inputs of a block's weights: the range of each channel, Hessians, and for routed
// experts the rows themselves, from which each expert's statistics are made one expert at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <vector>

#include "ops/moe.h"
#include "ops/weight.h"

namespace fathom::quantize {

// Minimum, maximum and squares of each channel, and how many rows were seen.
struct ChannelRanges {
  at::Tensor minimum, maximum;  // float [in]; undefined before the first row
  at::Tensor square_sum;        // double [in]; of x^2
  int64_t rows = 0;
  void add(const at::Tensor& x);          // [T, in]
  void divide(const at::Tensor& scales);  // as if all x had been divided: float [in], > 0
  at::Tensor largest() const;             // of |x|, float [in]
};

class InputStatistics : public ops::InputObserver {
 public:
  struct Inputs {
    ChannelRanges ranges;
    at::Tensor hessian;  // double [in, in]: the sum of x x^T; undefined unless asked for
  };

  explicit InputStatistics(bool wants_hessians) : wants_hessians_(wants_hessians) {}
  void observe(const ops::Weight& weight, const at::Tensor& x) override;
  void observe_experts(const ops::Weight& weight, const at::Tensor& x,
                       const ops::DispatchPlan& plan) override;

  // As if the inputs of this weight had been divided by `scales` (float [in], powers of two) all along.
  void divide(const ops::Weight& weight, const at::Tensor& scales);

  // nullptr: nothing has been multiplied with this weight.
  const Inputs* find(const ops::Weight& weight) const;
  // Rows that went to each expert; empty where the block has none.
  const std::vector<int64_t>& expert_rows() const { return expert_rows_; }
  // Those rows, in their order, [n, D]: float.
  at::Tensor rows_of_expert(int64_t expert) const;

 private:
  struct Routed {
    at::Tensor x;
    ops::DispatchPlan plan;
  };
  bool wants_hessians_;
  const ops::Weight* experts_ = nullptr;  // whose rows `routed_` holds
  std::map<const ops::Weight*, Inputs> inputs_;
  std::vector<Routed> routed_;
  std::vector<int64_t> expert_rows_;
};

// x x^T of rows [n, in], summed; products in float, the sum over calls in double.
void add_to_hessian(at::Tensor& hessian, const at::Tensor& rows);

}  // namespace fathom::quantize

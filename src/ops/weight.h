// A weight as the operations see it, and the one seam that gradients pass (docs/design.md §6): no weight is an
// autograd leaf; the operation that owns it hands its gradient to the weight's GradSink.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>

namespace fathom::ops {

class GradSink;
class InputObserver;

struct Weight {
  std::string label;  // for messages: the HF name, or "model.layers.3.mlp.experts.*" for a stack
  at::Tensor value;   // what a forward pass uses, in the stored dtype
  at::Tensor
      main_grad;  // same shape; float (bfloat16 under bf16_pure, double under fp64); undefined: not trained
  bool main_grad_empty = true;        // main_grad holds no sum yet: the first contribution overwrites it
  GradSink* sink = nullptr;           // null: contributions are added at once
  InputObserver* observer = nullptr;  // null: nobody watches what the weight is multiplied with

  bool is_trained() const { return main_grad.defined(); }
  void add_grad(const at::Tensor& contribution);  // any float dtype, the weight's shape
  // Makes main_grad ready for scattered additions (zeroes it if it is empty) and returns it.
  at::Tensor& grad_for_adding();
};

// grad (+)= contribution, both of one shape, any float dtypes; the sum is rounded once to grad's dtype.
void add_to_grad(at::Tensor& grad, const at::Tensor& contribution, bool overwrite);

// What to do with a contribution: add it now, or queue it for a later W operation of a pipeline schedule.
class GradSink {
 public:
  virtual ~GradSink() = default;
  virtual void accumulate(Weight& weight, std::function<void(Weight&)> work) = 0;
};

struct DispatchPlan;  // ops/moe.h

// Sees the inputs of a weight's forward products (calibration). Set for passes without gradients only.
class InputObserver {
 public:
  virtual ~InputObserver() = default;
  // x [T, in], as the product takes it.
  virtual void observe(const Weight& weight, const at::Tensor& x) = 0;
  // The stacked first projections of experts: x [T, in] before the rows are sorted; `plan` says who gets which.
  virtual void observe_experts(const Weight& weight, const at::Tensor& x, const DispatchPlan& plan) = 0;
};

// Called by the operations in backward; does nothing for a weight that is not trained.
void accumulate_grad(Weight& weight, std::function<void(Weight&)> work);

}  // namespace fathom::ops

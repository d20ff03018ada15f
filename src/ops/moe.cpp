#include "ops/moe.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/error.h"
#include "kernels/moe.h"
#include "ops/activation.h"
#include "ops/grouped_gemm.h"
#include "ops/kernel_args.h"
#include "ops/runtime.h"

namespace fathom::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

DispatchPlan balanced_plan(const at::Tensor& indices, int64_t num_experts) {
  DispatchPlan plan;
  plan.num_tokens = indices.size(0);
  plan.num_choices = indices.size(1);
  plan.num_experts = num_experts;
  const int64_t rows = indices.numel();
  for (int64_t e = 0; e <= num_experts; ++e) plan.offsets.push_back(rows * e / num_experts);
  plan.row_token = at::empty({rows}, indices.options());
  plan.row_choice = at::empty({rows}, indices.options());
  plan.choice_row = at::empty_like(indices);
  return plan;
}

struct PlanHolder : torch::CustomClassHolder {
  explicit PlanHolder(const DispatchPlan& p) : plan(p) {}
  DispatchPlan plan;
};

struct MoeExperts : torch::autograd::Function<MoeExperts> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weights,
                            const DispatchPlan* plan, Weight* gate_up, Weight* down) {
    const at::Tensor rows = gather_rows(x.detach(), *plan);
    const at::Tensor hidden = grouped_mm_nt(rows, gate_up->value, plan->offsets);
    const at::Tensor out_rows = grouped_mm_nt(swiglu(hidden), down->value, plan->offsets);
    ctx->save_for_backward({x, weights, hidden});
    ctx->saved_data["plan"] = c10::IValue::make_capsule(c10::make_intrusive<PlanHolder>(*plan));
    ctx->saved_data["gate_up"] = reinterpret_cast<int64_t>(gate_up);
    ctx->saved_data["down"] = reinterpret_cast<int64_t>(down);
    return combine_rows(out_rows, weights.detach(), *plan);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    Weight& gate_up = *reinterpret_cast<Weight*>(ctx->saved_data["gate_up"].toInt());
    Weight& down = *reinterpret_cast<Weight*>(ctx->saved_data["down"].toInt());
    const auto capsule = ctx->saved_data["plan"].toCapsule();
    const DispatchPlan plan = static_cast<PlanHolder*>(capsule.get())->plan;
    const auto saved = ctx->get_saved_variables();
    const at::Tensor x = saved[0].detach(), weights = saved[1].detach(), hidden = saved[2].detach();
    const at::ScalarType precise = accumulate_dtype(x);

    // Gradient of an expert's unweighted output row is w * dy; the weight's own is <dy, expert(x)> = <dy W_down, act>.
    const at::Tensor dy_rows = gather_rows(grads[0].contiguous(), plan);
    const at::Tensor row_weight =
        at::index_select(weights.flatten(), 0, plan.row_choice).to(precise).unsqueeze(1);
    const at::Tensor activation = swiglu(hidden);
    const at::Tensor d_unweighted = grouped_mm_nn(dy_rows, down.value, plan.offsets);
    const at::Tensor d_row_weight = (d_unweighted.to(precise) * activation.to(precise)).sum(1);
    const at::Tensor d_weights = at::index_select(d_row_weight, 0, plan.choice_row.flatten())
                                     .view_as(weights)
                                     .to(weights.scalar_type());
    const at::Tensor d_activation = (d_unweighted.to(precise) * row_weight).to(x.scalar_type());
    accumulate_grad(down, [plan, dy_rows, activation, row_weight](Weight& w) {
      const at::Tensor weighted =
          (activation.to(row_weight.scalar_type()) * row_weight).to(activation.scalar_type());
      grouped_mm_tn_accumulate(dy_rows, weighted, plan.offsets, w.main_grad, w.main_grad_empty);
      w.main_grad_empty = false;
    });
    const at::Tensor d_hidden = swiglu_backward(hidden, d_activation);
    const at::Tensor d_rows = grouped_mm_nn(d_hidden, gate_up.value, plan.offsets);
    accumulate_grad(gate_up, [plan, x, d_hidden](Weight& w) {
      const at::Tensor rows = gather_rows(x, plan);
      grouped_mm_tn_accumulate(d_hidden, rows, plan.offsets, w.main_grad, w.main_grad_empty);
      w.main_grad_empty = false;
    });
    return {combine_rows(d_rows, at::Tensor(), plan), d_weights, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor gather_rows(const at::Tensor& x, const DispatchPlan& plan) {
  if (!use_kernels(x)) return at::index_select(x, 0, plan.row_token);
  at::Tensor rows = at::empty({plan.row_token.numel(), x.size(1)}, x.options());
  kernels::MoeGatherParams params;
  params.dtype = kernel_dtype(x);
  params.num_rows = rows.size(0);
  params.dim = x.size(1);
  params.x = x.const_data_ptr();
  params.x_stride = x.stride(0);
  params.row_token = plan.row_token.const_data_ptr<int32_t>();
  params.rows = rows.mutable_data_ptr();
  kernels::moe_gather(params);
  return rows;
}

at::Tensor combine_rows(const at::Tensor& rows, const at::Tensor& scale, const DispatchPlan& plan) {
  if (use_kernels(rows)) {
    at::Tensor y = at::empty({plan.num_tokens, rows.size(1)}, rows.options());
    const at::Tensor dense_scale = scale.defined() ? scale.contiguous() : scale;
    kernels::MoeCombineParams params;
    params.dtype = kernel_dtype(rows);
    params.num_tokens = plan.num_tokens;
    params.num_choices = plan.num_choices;
    params.dim = rows.size(1);
    params.rows = rows.const_data_ptr();
    params.choice_row = plan.choice_row.const_data_ptr<int32_t>();
    params.weights = scale.defined() ? dense_scale.const_data_ptr<float>() : nullptr;
    params.y = y.mutable_data_ptr();
    kernels::moe_combine(params);
    return y;
  }
  const at::ScalarType precise = accumulate_dtype(rows);
  const at::Tensor gathered = at::index_select(rows, 0, plan.choice_row.flatten())
                                  .to(precise)
                                  .view({plan.num_tokens, plan.num_choices, rows.size(1)});
  if (!scale.defined()) return gathered.sum(1).to(rows.scalar_type());
  return (gathered * scale.to(precise).unsqueeze(-1)).sum(1).to(rows.scalar_type());
}

DispatchPlan plan_dispatch(const at::Tensor& indices, int64_t num_experts) {
  if (indices.is_meta()) return balanced_plan(indices, num_experts);
  const at::Tensor host = indices.to(at::kCPU).contiguous();
  DispatchPlan plan;
  plan.num_tokens = host.size(0);
  plan.num_choices = host.size(1);
  plan.num_experts = num_experts;
  plan.offsets.assign(static_cast<size_t>(num_experts) + 1, 0);
  plan.row_token = at::empty({host.numel()}, host.options());
  plan.row_choice = at::empty({host.numel()}, host.options());
  plan.choice_row = at::empty({plan.num_tokens, plan.num_choices}, host.options());
  kernels::MoePlanParams params;
  params.num_tokens = plan.num_tokens;
  params.num_choices = plan.num_choices;
  params.num_experts = num_experts;
  params.indices = host.const_data_ptr<int32_t>();
  params.offsets = plan.offsets.data();
  params.row_token = plan.row_token.mutable_data_ptr<int32_t>();
  params.row_choice = plan.row_choice.mutable_data_ptr<int32_t>();
  params.choice_row = plan.choice_row.mutable_data_ptr<int32_t>();
  kernels::moe_plan(params);
  if (!indices.is_cpu()) {
    plan.row_token = plan.row_token.to(indices.device());
    plan.row_choice = plan.row_choice.to(indices.device());
    plan.choice_row = plan.choice_row.to(indices.device());
  }
  return plan;
}

at::Tensor moe_experts(const at::Tensor& x, const at::Tensor& weights, const DispatchPlan& plan,
                       Weight& gate_up, Weight& down) {
  FATHOM_ASSERT(gate_up.value.size(0) == plan.num_experts);
  if (gate_up.observer) gate_up.observer->observe_experts(gate_up, x, plan);
  return MoeExperts::apply(x, weights, &plan, &gate_up, &down);
}

}  // namespace fathom::ops

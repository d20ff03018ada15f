#include "ops/linear.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/error.h"
#include "kernels/elementwise.h"
#include "ops/grouped_gemm.h"
#include "ops/kernel_args.h"
#include "ops/runtime.h"

namespace fathom::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Linear : torch::autograd::Function<Linear> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, Weight* w) {
    ctx->save_for_backward({x});
    ctx->saved_data["weight"] = reinterpret_cast<int64_t>(w);
    return at::mm(x, w->value.t());
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    Weight& w = *reinterpret_cast<Weight*>(ctx->saved_data["weight"].toInt());
    const at::Tensor x = ctx->get_saved_variables()[0].detach(), dy = grads[0].contiguous();
    at::Tensor dx;
    if (ctx->needs_input_grad(0)) dx = at::mm(dy, w.value);
    accumulate_grad(w, [x, dy](Weight& weight) { add_product_grad(weight, dy, x); });
    return {dx, at::Tensor()};
  }
};

struct LinearFp32 : torch::autograd::Function<LinearFp32> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, Weight* w) {
    ctx->save_for_backward({x});
    ctx->saved_data["weight"] = reinterpret_cast<int64_t>(w);
    const at::ScalarType precise = accumulate_dtype(x);
    return at::mm(x.to(precise), w->value.to(precise).t());
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    Weight& w = *reinterpret_cast<Weight*>(ctx->saved_data["weight"].toInt());
    const at::Tensor x = ctx->get_saved_variables()[0].detach(), dy = grads[0];
    const at::ScalarType precise = accumulate_dtype(x);
    at::Tensor dx;
    if (ctx->needs_input_grad(0)) dx = at::mm(dy, w.value.to(precise)).to(x.scalar_type());
    accumulate_grad(w, [x, dy, precise](Weight& weight) { weight.add_grad(at::mm(dy.t(), x.to(precise))); });
    return {dx, at::Tensor()};
  }
};

// Token ids have no gradient, so an empty tensor that requires one carries the function into the graph.
struct Embedding : torch::autograd::Function<Embedding> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& /*anchor*/, const at::Tensor& tokens,
                            Weight* w) {
    ctx->save_for_backward({tokens});
    ctx->saved_data["weight"] = reinterpret_cast<int64_t>(w);
    return at::index_select(w->value, 0, tokens);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    Weight& w = *reinterpret_cast<Weight*>(ctx->saved_data["weight"].toInt());
    const at::Tensor tokens = ctx->get_saved_variables()[0], dy = grads[0];
    accumulate_grad(w, [tokens, dy](Weight& weight) {
      at::Tensor& grad = weight.grad_for_adding();
      if (!use_kernels(grad) || !use_kernels(dy)) {
        grad.index_add_(0, tokens, dy.to(grad.scalar_type()));
        return;
      }
      const at::Tensor dense = dy.contiguous();
      kernels::EmbeddingGradParams params;
      params.dtype = kernel_dtype(dense);
      params.grad_type = kernel_dtype(grad);
      params.num_tokens = dense.size(0);
      params.dim = dense.size(1);
      params.num_rows = grad.size(0);
      params.ids = tokens.const_data_ptr<int64_t>();
      params.dx = dense.const_data_ptr();
      params.grad = grad.mutable_data_ptr();
      kernels::embedding_grad(params);
    });
    return {at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor linear(const at::Tensor& x, Weight& w) {
  if (w.observer) w.observer->observe(w, x);
  return Linear::apply(x, &w);
}

at::Tensor linear_fp32(const at::Tensor& x, Weight& w) {
  if (w.observer) w.observer->observe(w, x);
  return LinearFp32::apply(x, &w);
}

at::Tensor embedding(const at::Tensor& tokens, Weight& w) {
  at::Tensor anchor = at::empty({0}, w.value.options());
  anchor.requires_grad_(at::GradMode::is_enabled());
  return Embedding::apply(anchor, tokens, &w);
}

}  // namespace fathom::ops

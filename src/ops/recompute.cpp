#include "ops/recompute.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>

#include "base/error.h"

namespace fathom::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

thread_local int recomputing_depth = 0;

struct RecomputingScope {
  RecomputingScope() { ++recomputing_depth; }
  ~RecomputingScope() { --recomputing_depth; }
};

struct Holder : torch::CustomClassHolder {
  explicit Holder(RecomputedFunction f) : fn(std::move(f)) {}
  RecomputedFunction fn;
};

struct Recompute : torch::autograd::Function<Recompute> {
  static variable_list forward(AutogradContext* ctx, at::TensorList inputs,
                               const std::shared_ptr<RecomputedFunction>& fn) {
    ctx->save_for_backward(inputs.vec());
    // The context outlives this call; it owns the function through a capsule.
    ctx->saved_data["fn"] = c10::IValue::make_capsule(c10::make_intrusive<Holder>(*fn));
    return (*fn)(inputs.vec());
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto capsule = ctx->saved_data["fn"].toCapsule();
    const RecomputedFunction& fn = static_cast<Holder*>(capsule.get())->fn;
    variable_list inputs, differentiable;
    for (const at::Tensor& saved : ctx->get_saved_variables()) {
      at::Tensor input = saved.defined() ? saved.detach() : saved;
      if (saved.defined() && saved.requires_grad()) {
        input.requires_grad_(true);
        differentiable.push_back(input);
      }
      inputs.push_back(input);
    }
    variable_list outputs;
    {
      at::AutoGradMode enabled(true);
      RecomputingScope scope;
      outputs = fn(inputs);
    }
    variable_list roots, root_grads;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!grads[i].defined() || !outputs[i].requires_grad()) continue;
      roots.push_back(outputs[i]);
      root_grads.push_back(grads[i]);
    }
    const variable_list input_grads =
        torch::autograd::grad(roots, differentiable, root_grads, std::nullopt, false, /*allow_unused=*/true);
    variable_list result;
    size_t next = 0;
    for (const at::Tensor& input : inputs)
      result.push_back(input.defined() && input.requires_grad() ? input_grads[next++] : at::Tensor());
    result.emplace_back();
    return result;
  }
};

}  // namespace

TensorList recompute(const RecomputedFunction& fn, const TensorList& inputs) {
  if (!at::GradMode::is_enabled()) return fn(inputs);
  return Recompute::apply(at::TensorList(inputs), std::make_shared<RecomputedFunction>(fn));
}

void release_until_backward(const at::Tensor& y, const at::Tensor& after,
                            std::function<at::Tensor()> compute) {
  if (is_recomputing() || !at::GradMode::is_enabled() || !after.requires_grad()) return;
  FATHOM_ASSERT(y.is_contiguous() && y.storage_offset() == 0);
  const c10::Storage& storage = y.storage();
  storage.unsafeGetStorageImpl()->set_data_ptr_noswap(at::DataPtr(nullptr, y.device()));
  after.register_hook([storage, compute = std::move(compute)](const at::Tensor& /*grad*/) {
    at::NoGradGuard no_grad;
    const at::Tensor again = compute();
    FATHOM_ASSERT(again.storage_offset() == 0 && again.storage().nbytes() == storage.nbytes());
    c10::StorageImpl* impl = again.storage().unsafeGetStorageImpl();
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(
        impl->set_data_ptr(at::DataPtr(nullptr, again.device())));
  });
}

bool is_recomputing() { return recomputing_depth > 0; }

}  // namespace fathom::ops

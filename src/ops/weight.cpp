#include "ops/weight.h"

#include <cstring>
#include <type_traits>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/parallel.h"
#include "kernels/elementwise.h"
#include "ops/runtime.h"

namespace fathom::ops {
namespace {

constexpr int64_t kGrain = 1 << 16;

template <typename To, typename From>
void add_range(To* grad, const From* x, int64_t count, bool overwrite) {
  parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    if (!overwrite) {
      kernels::accumulate(grad + begin, x + begin, end - begin);
    } else if constexpr (std::is_same_v<To, From>) {
      std::memcpy(grad + begin, x + begin, static_cast<size_t>(end - begin) * sizeof(To));
    } else {
      kernels::convert(x + begin, grad + begin, end - begin);
    }
  });
}

template <typename To>
void add_from(To* grad, const at::Tensor& x, bool overwrite) {
  if (x.scalar_type() == at::kFloat) {
    add_range(grad, x.const_data_ptr<float>(), x.numel(), overwrite);
  } else {
    add_range(grad, static_cast<const bf16*>(x.const_data_ptr()), x.numel(), overwrite);
  }
}

}  // namespace

void add_to_grad(at::Tensor& grad, const at::Tensor& contribution, bool overwrite) {
  FATHOM_ASSERT(contribution.numel() == grad.numel());
  if (use_kernels(grad) && use_kernels(contribution) && grad.is_contiguous() &&
      contribution.is_contiguous()) {
    if (grad.scalar_type() == at::kFloat) {
      add_from(grad.mutable_data_ptr<float>(), contribution, overwrite);
    } else {
      add_from(static_cast<bf16*>(grad.mutable_data_ptr()), contribution, overwrite);
    }
  } else if (overwrite) {
    grad.copy_(contribution);
  } else {
    grad.add_(contribution);
  }
}

void Weight::add_grad(const at::Tensor& contribution) {
  add_to_grad(main_grad, contribution.view_as(main_grad), main_grad_empty);
  main_grad_empty = false;
}

at::Tensor& Weight::grad_for_adding() {
  if (main_grad_empty) main_grad.zero_();
  main_grad_empty = false;
  return main_grad;
}

void accumulate_grad(Weight& weight, std::function<void(Weight&)> work) {
  if (!weight.is_trained()) return;
  if (weight.sink) {
    weight.sink->accumulate(weight, std::move(work));
  } else {
    work(weight);
  }
}

}  // namespace fathom::ops

#include "ops/weight.h"

#include "base/error.h"

namespace fathom::ops {

void Weight::add_grad(const at::Tensor& contribution) {
  FATHOM_ASSERT(contribution.numel() == main_grad.numel());
  if (main_grad_empty) {
    main_grad.copy_(contribution.view_as(main_grad));
    main_grad_empty = false;
  } else {
    main_grad.add_(contribution.view_as(main_grad));
  }
}

at::Tensor& Weight::grad_for_adding() {
  if (main_grad_empty) main_grad.zero_();
  main_grad_empty = false;
  return main_grad;
}

void Weight::add_grad_rows(int64_t first_row, const at::Tensor& contribution) {
  grad_for_adding().narrow(0, first_row, contribution.size(0)).add_(contribution);
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

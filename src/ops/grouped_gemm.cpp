#include "ops/grouped_gemm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "base/parallel.h"
#include "ops/weight.h"

namespace fathom::ops {
namespace {

// One group a task where there are groups enough to share out; else the product itself spreads over the threads.
template <typename Task>
void for_each_group(const std::vector<int64_t>& offsets, bool on_host, const Task& task) {
  const auto groups = static_cast<int64_t>(offsets.size()) - 1;
  if (on_host && groups >= 4 * num_threads()) {
    parallel_tasks(groups, task);
  } else {
    for (int64_t e = 0; e < groups; ++e) task(e);
  }
}

}  // namespace

at::Tensor grouped_mm_nt(const at::Tensor& rows, const at::Tensor& w, const std::vector<int64_t>& offsets) {
  at::Tensor out = at::empty({rows.size(0), w.size(1)}, rows.options());
  for_each_group(offsets, rows.is_cpu(), [&](int64_t e) {
    const int64_t first = offsets[e], count = offsets[e + 1] - first;
    if (count == 0) return;
    at::Tensor target = out.narrow(0, first, count);
    at::mm_out(target, rows.narrow(0, first, count), w.select(0, e).t());
  });
  return out;
}

at::Tensor grouped_mm_nn(const at::Tensor& rows, const at::Tensor& w, const std::vector<int64_t>& offsets) {
  at::Tensor out = at::empty({rows.size(0), w.size(2)}, rows.options());
  for_each_group(offsets, rows.is_cpu(), [&](int64_t e) {
    const int64_t first = offsets[e], count = offsets[e + 1] - first;
    if (count == 0) return;
    at::Tensor target = out.narrow(0, first, count);
    at::mm_out(target, rows.narrow(0, first, count), w.select(0, e));
  });
  return out;
}

void grouped_mm_tn_accumulate(const at::Tensor& d_rows, const at::Tensor& rows, const std::vector<int64_t>& offsets,
                              at::Tensor& main_grad, bool overwrite) {
  for_each_group(offsets, rows.is_cpu(), [&](int64_t e) {
    const int64_t first = offsets[e], count = offsets[e + 1] - first;
    at::Tensor grad = main_grad.select(0, e);
    if (count == 0) {
      if (overwrite) grad.zero_();
      return;
    }
    const at::Tensor product = at::mm(d_rows.narrow(0, first, count).t(), rows.narrow(0, first, count));
    add_to_grad(grad, product, overwrite);
  });
}

}  // namespace fathom::ops

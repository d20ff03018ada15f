#include "ops/grouped_gemm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "base/parallel.h"
#include "kernels/gemm.h"
#include "ops/kernel_args.h"
#include "ops/runtime.h"

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

// out [S, columns] = rows of each group times its right [depth, columns], which is w[e] or its transpose.
using Kernel = void(const kernels::GroupedGemmParams&);
at::Tensor rows_times(const at::Tensor& rows, const at::Tensor& w, bool is_transposed,
                      const std::vector<int64_t>& offsets, Kernel* kernel) {
  const int64_t columns = w.size(is_transposed ? 1 : 2);
  at::Tensor out = at::empty({rows.size(0), columns}, rows.options());
  if (!use_kernels(rows)) {
    for_each_group(offsets, rows.is_cpu(), [&](int64_t e) {
      const int64_t first = offsets[e], count = offsets[e + 1] - first;
      if (count == 0) return;
      at::Tensor target = out.narrow(0, first, count);
      const at::Tensor right = w.select(0, e);
      at::mm_out(target, rows.narrow(0, first, count), is_transposed ? right.t() : right);
    });
    return out;
  }
  kernels::GroupedGemmParams params;
  params.dtype = params.out_dtype = kernel_dtype(rows);
  params.num_groups = w.size(0);
  params.offsets = offsets.data();
  params.n = w.size(1);
  params.k = w.size(2);
  params.a = rows.const_data_ptr();
  params.lda = rows.stride(0);
  params.w = w.const_data_ptr();
  params.ldw = w.stride(1);
  params.w_group_stride = w.stride(0);
  params.c = out.mutable_data_ptr();
  params.ldc = columns;
  kernel(params);
  return out;
}

void accumulate_by_kernel(const at::Tensor& d_rows, const at::Tensor& rows,
                          const std::vector<int64_t>& offsets, at::Tensor& main_grad, bool overwrite) {
  kernels::GroupedGemmTnParams params;
  params.dtype = kernel_dtype(rows);
  params.grad_dtype = kernel_dtype(main_grad);
  params.num_groups = main_grad.size(0);
  params.offsets = offsets.data();
  params.n = main_grad.size(1);
  params.k = main_grad.size(2);
  params.d = d_rows.const_data_ptr();
  params.ldd = d_rows.stride(0);
  params.x = rows.const_data_ptr();
  params.ldx = rows.stride(0);
  params.g = main_grad.mutable_data_ptr();
  params.ldg = main_grad.stride(1);
  params.g_group_stride = main_grad.stride(0);
  params.overwrite = overwrite;
  kernels::grouped_gemm_tn(params);
}

bool has_dense_columns(const at::Tensor& x) { return x.stride(1) == 1; }

}  // namespace

at::Tensor grouped_mm_nt(const at::Tensor& rows, const at::Tensor& w, const std::vector<int64_t>& offsets) {
  return rows_times(rows, w, true, offsets, kernels::grouped_gemm_nt);
}

at::Tensor grouped_mm_nn(const at::Tensor& rows, const at::Tensor& w, const std::vector<int64_t>& offsets) {
  return rows_times(rows, w, false, offsets, kernels::grouped_gemm_nn);
}

void grouped_mm_tn_accumulate(const at::Tensor& d_rows, const at::Tensor& rows,
                              const std::vector<int64_t>& offsets, at::Tensor& main_grad, bool overwrite) {
  if (use_kernels(rows) && has_dense_columns(rows) && has_dense_columns(d_rows))
    return accumulate_by_kernel(d_rows, rows, offsets, main_grad, overwrite);
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

void add_product_grad(Weight& weight, const at::Tensor& dy, const at::Tensor& x) {
  at::Tensor grad = weight.main_grad.unsqueeze(0);
  grouped_mm_tn_accumulate(dy, x, {0, dy.size(0)}, grad, weight.main_grad_empty);
  weight.main_grad_empty = false;
}

}  // namespace fathom::ops

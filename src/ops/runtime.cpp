#include "ops/runtime.h"

#include <ATen/Parallel.h>

#include <atomic>

#include "base/error.h"
#include "base/parallel.h"
#include "kernels/isa.h"
#include "ops/allocator.h"
#include "ops/kernel_args.h"

namespace fathom::ops {
namespace {

// Each thread of ATen's pool drains one counter, so uneven tasks balance.
void run_on_aten_pool(int64_t num_tasks, const std::function<void(int64_t)>& task) {
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(num_tasks, at::get_num_threads());
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread)
      for (int64_t i = next.fetch_add(1); i < num_tasks; i = next.fetch_add(1)) task(i);
  });
}

}  // namespace

void initialize_runtime(int threads) {
  install_caching_allocator();
  set_num_threads(threads);
  at::set_num_threads(num_threads());
  set_parallel_backend(run_on_aten_pool);
}

kernels::DType kernel_dtype(const at::Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat:
      return kernels::DType::f32;
    case at::kBFloat16:
      return kernels::DType::bf16;
    case at::kDouble:
      return kernels::DType::f64;
    default:
      throw std::logic_error("no kernel takes tensors of this dtype");
  }
}

bool use_kernels(const at::Tensor& x) {
  return kernels::isa() != kernels::Isa::aten && x.device().is_cpu() &&
         (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

at::ScalarType accumulate_dtype(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace fathom::ops

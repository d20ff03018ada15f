#include "kernels/norm.h"

#include <algorithm>
#include <cstring>

#include "base/parallel.h"
#include "kernels/dispatch.h"

namespace fathom::kernels {

void rms_norm_forward(const RmsNormForwardParams& params) {
  if (params.num_rows == 0 || params.dim == 0) return;
  auto* body = FATHOM_PICK(params.dtype, rms_norm_forward_rows);
  const int64_t grain = std::max<int64_t>(1, 16384 / params.dim);
  parallel_for(0, params.num_rows, grain, [&](int64_t begin, int64_t end) { body(params, begin, end); });
}

namespace {

template <typename Sum>
void add_partials(const Sum* partials, int64_t blocks, int64_t dim, Sum* dweight) {
  parallel_for(0, dim, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t i = begin; i < end; ++i) dweight[i] += partials[b * dim + i];
  });
}

}  // namespace

void rms_norm_backward(const RmsNormBackwardParams& params) {
  if (params.num_rows == 0 || params.dim == 0) return;
  auto* body = FATHOM_PICK(params.dtype, rms_norm_backward_rows);
  const int64_t blocks = (params.num_rows + kNormBlockRows - 1) / kNormBlockRows;
  const bool is_double = params.dtype == DType::f64;
  const std::size_t sum_bytes = static_cast<std::size_t>(params.dim) * (is_double ? 8 : 4);
  // The bodies use no scratch of their own, so this thread's serves all.
  char* partials = params.dweight
                       ? static_cast<char*>(thread_scratch(static_cast<std::size_t>(blocks) * sum_bytes))
                       : nullptr;
  parallel_tasks(blocks, [&](int64_t block) {
    char* partial = partials ? partials + static_cast<std::size_t>(block) * sum_bytes : nullptr;
    if (partial) std::memset(partial, 0, sum_bytes);
    body(params, block * kNormBlockRows, std::min(params.num_rows, (block + 1) * kNormBlockRows), partial);
  });
  if (!partials) return;
  if (is_double) {
    add_partials(reinterpret_cast<const double*>(partials), blocks, params.dim,
                 static_cast<double*>(params.dweight));
  } else {
    add_partials(reinterpret_cast<const float*>(partials), blocks, params.dim,
                 static_cast<float*>(params.dweight));
  }
}

}  // namespace fathom::kernels

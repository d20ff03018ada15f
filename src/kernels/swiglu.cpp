#include "kernels/swiglu.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/dispatch.h"

namespace fathom::kernels {
namespace {

int64_t grain_of(int64_t dim) { return std::max<int64_t>(1, 8192 / std::max<int64_t>(1, dim)); }

}  // namespace

void swiglu_forward(const SwigluForwardParams& params) {
  auto* body = FATHOM_PICK(params.dtype, swiglu_forward_rows);
  parallel_for(0, params.num_rows, grain_of(params.dim),
               [&](int64_t begin, int64_t end) { body(params, begin, end); });
}

void swiglu_backward(const SwigluBackwardParams& params) {
  auto* body = FATHOM_PICK(params.dtype, swiglu_backward_rows);
  parallel_for(0, params.num_rows, grain_of(params.dim),
               [&](int64_t begin, int64_t end) { body(params, begin, end); });
}

}  // namespace fathom::kernels

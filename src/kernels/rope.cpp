#include "kernels/rope.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/dispatch.h"

namespace fathom::kernels {

void rope(const RopeParams& params) {
  if (params.num_tokens == 0 || params.num_heads == 0 || params.rope_dim == 0) return;
  auto* body = FATHOM_PICK(params.dtype, rope_tokens);
  const int64_t grain = std::max<int64_t>(1, 16384 / (params.num_heads * params.rope_dim));
  parallel_for(0, params.num_tokens, grain, [&](int64_t begin, int64_t end) { body(params, begin, end); });
}

}  // namespace fathom::kernels

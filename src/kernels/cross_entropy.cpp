#include "kernels/cross_entropy.h"

#include "base/parallel.h"
#include "kernels/dispatch.h"

namespace fathom::kernels {

void cross_entropy(const CrossEntropyParams& params) {
  if (params.num_rows == 0 || params.vocab_size == 0) return;
  auto* body = FATHOM_PICK(params.dtype, cross_entropy_rows);
  parallel_for(0, params.num_rows, 1, [&](int64_t begin, int64_t end) { body(params, begin, end); });
}

}  // namespace fathom::kernels

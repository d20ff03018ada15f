#include "kernels/cpu/body/vec.h"
#include "kernels/dispatch.h"
#include "kernels/elementwise.h"

namespace fathom::kernels::FATHOM_SET {
namespace {

template <typename Sum, typename T>
void accumulate_values(void* sum, const void* x, int64_t count, float scale) {
  Sum* to = static_cast<Sum*>(sum);
  const T* from = static_cast<const T*>(x);
  const Vec factor = splat(scale);
  FATHOM_FOR_VECTORS(i, 0, count, store_n(to + i, fma(load_n(from + i, n), factor, load_n(to + i, n)), n););
}

}  // namespace

// The exponential that the other families use inside, for its test.
void exp_range(const float* x, float* y, int64_t count) {
  FATHOM_FOR_VECTORS(i, 0, count, store_n(y + i, exp(load_n(x + i, n)), n););
}

void convert_range(const bf16* from, float* to, int64_t count) {
  FATHOM_FOR_VECTORS(i, 0, count, store_n(to + i, load_n(from + i, n), n););
}

void convert_range(const float* from, bf16* to, int64_t count) {
  FATHOM_FOR_VECTORS(i, 0, count, store_n(to + i, load_n(from + i, n), n););
}

void accumulate_range(DType sum_type, void* sum, DType type, const void* x, int64_t count, float scale) {
  const bool from_bf16 = type == DType::bf16;
  if (sum_type == DType::bf16) {
    from_bf16 ? accumulate_values<bf16, bf16>(sum, x, count, scale)
              : accumulate_values<bf16, float>(sum, x, count, scale);
  } else {
    from_bf16 ? accumulate_values<float, bf16>(sum, x, count, scale)
              : accumulate_values<float, float>(sum, x, count, scale);
  }
}

}  // namespace fathom::kernels::FATHOM_SET

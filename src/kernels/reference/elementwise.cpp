#include <cmath>

#include "kernels/dispatch.h"
#include "kernels/reference/values.h"

namespace fathom::kernels::reference {

void exp_range(const float* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] = static_cast<float>(std::exp(double(x[i])));
}

void convert_range(const bf16* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}

void convert_range(const float* from, bf16* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_bf16(from[i]);
}

void accumulate_range(DType sum_type, void* sum, DType type, const void* x, int64_t count, float scale) {
  with_type(sum_type, [&](auto sum_value) {
    with_type(type, [&](auto value) {
      auto* to = static_cast<decltype(sum_value)*>(sum);
      const auto* from = static_cast<const decltype(value)*>(x);
      for (int64_t i = 0; i < count; ++i) put(to + i, get(to + i) + scale * get(from + i));
    });
  });
}

}  // namespace fathom::kernels::reference

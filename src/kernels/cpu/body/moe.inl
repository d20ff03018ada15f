#include "kernels/cpu/body/vec.h"
#include "kernels/dispatch.h"
#include "kernels/moe.h"

namespace fathom::kernels::FATHOM_SET {
namespace {

template <typename T>
void combine(const MoeCombineParams& p, int64_t begin, int64_t end) {
  const T* rows = static_cast<const T*>(p.rows);
  for (int64_t token = begin; token < end; ++token) {
    const int32_t* row_of = p.choice_row + token * p.num_choices;
    const float* weights = p.weights ? p.weights + token * p.num_choices : nullptr;
    const T* add_row = p.add ? static_cast<const T*>(p.add) + token * p.dim : nullptr;
    T* y = static_cast<T*>(p.y) + token * p.dim;
    FATHOM_FOR_VECTORS(i, 0, p.dim, {
      Vec sum = zero();
      for (int64_t k = 0; k < p.num_choices; ++k)
        sum = fma(load_n(rows + row_of[k] * p.dim + i, n), splat(weights ? weights[k] : 1.0f), sum);
      if (add_row) sum = sum + load_n(add_row + i, n);
      store_n(y + i, sum, n);
    });
  }
}

template <typename T>
void combine_backward(const MoeCombineBackwardParams& p, int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; ++token) {
    const T* dy = static_cast<const T*>(p.dy) + token * p.dim;
    for (int64_t k = 0; k < p.num_choices; ++k) {
      const int64_t choice = token * p.num_choices + k, row = p.choice_row[choice];
      if (p.dweights) {
        const T* values = static_cast<const T*>(p.rows) + row * p.dim;
        Vec products = zero();
        FATHOM_FOR_VECTORS(i, 0, p.dim, products = fma(load_n(values + i, n), load_n(dy + i, n), products););
        p.dweights[choice] = sum_of(products);
      }
      if (p.drows) {
        T* drow = static_cast<T*>(p.drows) + row * p.dim;
        const Vec weight = splat(p.weights ? p.weights[choice] : 1.0f);
        FATHOM_FOR_VECTORS(i, 0, p.dim, store_n(drow + i, load_n(dy + i, n) * weight, n););
      }
    }
  }
}

}  // namespace

void combine_tokens(const MoeCombineParams& params, int64_t begin, int64_t end) {
  params.dtype == DType::bf16 ? combine<bf16>(params, begin, end) : combine<float>(params, begin, end);
}

void combine_backward_tokens(const MoeCombineBackwardParams& params, int64_t begin, int64_t end) {
  params.dtype == DType::bf16 ? combine_backward<bf16>(params, begin, end)
                              : combine_backward<float>(params, begin, end);
}

}  // namespace fathom::kernels::FATHOM_SET

#include "kernels/dispatch.h"
#include "kernels/reference/values.h"

namespace fathom::kernels::reference {
namespace {

template <typename T>
void combine(const MoeCombineParams& p, int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; ++token) {
    for (int64_t i = 0; i < p.dim; ++i) {
      double sum = 0;
      for (int64_t k = 0; k < p.num_choices; ++k) {
        const int64_t choice = token * p.num_choices + k;
        const double weight = p.weights ? p.weights[choice] : 1;
        sum += weight * get(static_cast<const T*>(p.rows) + p.choice_row[choice] * p.dim + i);
      }
      if (p.add) sum += get(static_cast<const T*>(p.add) + token * p.dim + i);
      put(static_cast<T*>(p.y) + token * p.dim + i, sum);
    }
  }
}

template <typename T>
void combine_backward(const MoeCombineBackwardParams& p, int64_t begin, int64_t end) {
  for (int64_t choice = begin * p.num_choices; choice < end * p.num_choices; ++choice) {
    const T* dy = static_cast<const T*>(p.dy) + choice / p.num_choices * p.dim;
    const int64_t row = p.choice_row[choice];
    double product = 0;
    for (int64_t i = 0; i < p.dim; ++i) {
      if (p.dweights) product += get(static_cast<const T*>(p.rows) + row * p.dim + i) * get(dy + i);
      if (p.drows)
        put(static_cast<T*>(p.drows) + row * p.dim + i, get(dy + i) * (p.weights ? p.weights[choice] : 1));
    }
    if (p.dweights) p.dweights[choice] = static_cast<float>(product);
  }
}

}  // namespace

void combine_tokens(const MoeCombineParams& params, int64_t begin, int64_t end) {
  with_type(params.dtype, [&](auto type) { combine<decltype(type)>(params, begin, end); });
}

void combine_backward_tokens(const MoeCombineBackwardParams& params, int64_t begin, int64_t end) {
  with_type(params.dtype, [&](auto type) { combine_backward<decltype(type)>(params, begin, end); });
}

}  // namespace fathom::kernels::reference

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/dispatch.h"
#include "kernels/reference/values.h"

namespace fathom::kernels::reference {
namespace {

template <typename T, typename Grad>
void rows(const CrossEntropyParams& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* z = static_cast<const T*>(p.logits) + row * p.logits_stride;
    double top = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int64_t i = 0; i < p.vocab_size; ++i) top = std::max(top, get(z + i));
    for (int64_t i = 0; i < p.vocab_size; ++i) sum += std::exp(get(z + i) - top);
    const double lse = top + std::log(sum);
    const int64_t target = p.targets[row];
    const bool is_ignored = target == p.ignore;
    const double nll = is_ignored ? 0 : lse - get(z + target);
    if (p.lse) p.lse[row] = static_cast<float>(lse);
    if (p.nll) p.nll[row] = static_cast<float>(nll);
    if (p.lse_f64) p.lse_f64[row] = lse;
    if (p.nll_f64) p.nll_f64[row] = nll;
    if (!p.dlogits) continue;
    Grad* dz = static_cast<Grad*>(p.dlogits) + row * p.dlogits_stride;
    for (int64_t i = 0; i < p.vocab_size; ++i) {
      const double softmax = std::exp(get(z + i) - lse), onehot = i == target ? 1 : 0;
      put(dz + i, is_ignored ? 0 : p.coefficient * ((1 + 2 * p.z_loss * lse) * softmax - onehot));
    }
  }
}

}  // namespace

void cross_entropy_rows(const CrossEntropyParams& params, int64_t begin, int64_t end) {
  with_type(params.dtype, [&](auto type) {
    with_type(params.grad_type, [&](auto grad) { rows<decltype(type), decltype(grad)>(params, begin, end); });
  });
}

}  // namespace fathom::kernels::reference

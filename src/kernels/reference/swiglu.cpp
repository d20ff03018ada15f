#include <cmath>

#include "kernels/dispatch.h"
#include "kernels/reference/values.h"

namespace fathom::kernels::reference {
namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

template <typename T>
void forward_rows(const SwigluForwardParams& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* gate = static_cast<const T*>(p.gate_up) + row * 2 * p.dim;
    T* activation = static_cast<T*>(p.activation) + row * p.dim;
    for (int64_t i = 0; i < p.dim; ++i)
      put(activation + i, get(gate + i) * sigmoid(get(gate + i)) * get(gate + p.dim + i));
  }
}

template <typename T>
void backward_rows(const SwigluBackwardParams& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* gate = static_cast<const T*>(p.gate_up) + row * 2 * p.dim;
    const T* dactivation = static_cast<const T*>(p.dactivation) + row * p.dim;
    T* dgate = static_cast<T*>(p.dgate_up) + row * 2 * p.dim;
    for (int64_t i = 0; i < p.dim; ++i) {
      const double g = get(gate + i), u = get(gate + p.dim + i), da = get(dactivation + i), s = sigmoid(g);
      if (p.activation) put(static_cast<T*>(p.activation) + row * p.dim + i, g * s * u);
      put(dgate + p.dim + i, da * g * s);
      put(dgate + i, da * u * s * (1 + g * (1 - s)));
    }
  }
}

}  // namespace

void swiglu_forward_rows(const SwigluForwardParams& params, int64_t begin, int64_t end) {
  with_type(params.dtype, [&](auto type) { forward_rows<decltype(type)>(params, begin, end); });
}

void swiglu_backward_rows(const SwigluBackwardParams& params, int64_t begin, int64_t end) {
  with_type(params.dtype, [&](auto type) { backward_rows<decltype(type)>(params, begin, end); });
}

}  // namespace fathom::kernels::reference

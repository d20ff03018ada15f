#include "kernels/cpu/body/vec.h"
#include "kernels/dispatch.h"
#include "kernels/swiglu.h"

namespace fathom::kernels::FATHOM_SET {
namespace {

template <typename T>
void forward_rows(const SwigluForwardParams& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* gate = static_cast<const T*>(p.gate_up) + row * 2 * p.dim;
    const T* up = gate + p.dim;
    T* activation = static_cast<T*>(p.activation) + row * p.dim;
    FATHOM_FOR_VECTORS(i, 0, p.dim, {
      const Vec g = load_n(gate + i, n);
      store_n(activation + i, g * sigmoid(g) * load_n(up + i, n), n);
    });
  }
}

template <typename T>
void backward_rows(const SwigluBackwardParams& p, int64_t begin, int64_t end) {
  const Vec one = splat(1.0f);
  for (int64_t row = begin; row < end; ++row) {
    const T* gate = static_cast<const T*>(p.gate_up) + row * 2 * p.dim;
    const T* up = gate + p.dim;
    const T* dactivation = static_cast<const T*>(p.dactivation) + row * p.dim;
    T* activation = p.activation ? static_cast<T*>(p.activation) + row * p.dim : nullptr;
    T* dgate = static_cast<T*>(p.dgate_up) + row * 2 * p.dim;
    T* dup = dgate + p.dim;
    FATHOM_FOR_VECTORS(i, 0, p.dim, {
      const Vec g = load_n(gate + i, n), u = load_n(up + i, n), da = load_n(dactivation + i, n);
      const Vec s = sigmoid(g), silu = g * s;
      if (activation) store_n(activation + i, silu * u, n);
      store_n(dup + i, da * silu, n);
      store_n(dgate + i, da * u * s * fma(g, one - s, one), n);
    });
  }
}

}  // namespace

void swiglu_forward_rows(const SwigluForwardParams& params, int64_t begin, int64_t end) {
  params.dtype == DType::bf16 ? forward_rows<bf16>(params, begin, end)
                              : forward_rows<float>(params, begin, end);
}

void swiglu_backward_rows(const SwigluBackwardParams& params, int64_t begin, int64_t end) {
  params.dtype == DType::bf16 ? backward_rows<bf16>(params, begin, end)
                              : backward_rows<float>(params, begin, end);
}

}  // namespace fathom::kernels::FATHOM_SET

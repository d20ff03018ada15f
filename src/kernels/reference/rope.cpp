#include "kernels/dispatch.h"
#include "kernels/reference/values.h"

namespace fathom::kernels::reference {
namespace {

template <typename T, typename Angle>
void rotate_tokens(const RopeParams& p, const Angle* cos, const Angle* sin, int64_t begin, int64_t end) {
  const int64_t pairs = p.rope_dim / 2;
  for (int64_t token = begin; token < end; ++token) {
    const int64_t position = p.position_ids ? p.position_ids[token] : token;
    for (int64_t head = 0; head < p.num_heads; ++head) {
      const T* x = static_cast<const T*>(p.x) + token * p.x_token_stride + head * p.x_head_stride;
      T* y = static_cast<T*>(p.y) + token * p.y_token_stride + head * p.y_head_stride;
      for (int64_t i = 0; i < pairs; ++i) {
        const double c = cos[position * pairs + i],
                     s = p.inverse ? -sin[position * pairs + i] : sin[position * pairs + i];
        const double a = get(x + 2 * i), b = get(x + 2 * i + 1);
        put(y + 2 * i, a * c - b * s);
        put(y + 2 * i + 1, a * s + b * c);
      }
    }
  }
}

}  // namespace

void rope_tokens(const RopeParams& params, int64_t begin, int64_t end) {
  if (params.dtype == DType::f64) {
    rotate_tokens<double>(params, params.cos_f64, params.sin_f64, begin, end);
  } else if (params.dtype == DType::bf16) {
    rotate_tokens<bf16>(params, params.cos, params.sin, begin, end);
  } else {
    rotate_tokens<float>(params, params.cos, params.sin, begin, end);
  }
}

}  // namespace fathom::kernels::reference

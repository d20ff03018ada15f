#include "kernels/cpu/body/vec.h"
#include "kernels/dispatch.h"
#include "kernels/rope.h"

namespace fathom::kernels::FATHOM_SET {
namespace {

template <typename T>
void rotate_tokens(const RopeParams& p, int64_t begin, int64_t end) {
  const Vec sign = splat(p.inverse ? -1.0f : 1.0f);
  for (int64_t token = begin; token < end; ++token) {
    const int64_t position = p.position_ids ? p.position_ids[token] : token;
    const float* cos = p.cos + position * (p.rope_dim / 2);
    const float* sin = p.sin + position * (p.rope_dim / 2);
    for (int64_t head = 0; head < p.num_heads; ++head) {
      const T* x = static_cast<const T*>(p.x) + token * p.x_token_stride + head * p.x_head_stride;
      T* y = static_cast<T*>(p.y) + token * p.y_token_stride + head * p.y_head_stride;
      FATHOM_FOR_VECTORS(i, 0, p.rope_dim, {
        const Vec value = load_n(x + i, n);
        const Vec crossed = swap_pairs(value) * (load_doubled(sin + i / 2, n) * sign);
        store_n(y + i, multiply_subtract_add(value, load_doubled(cos + i / 2, n), crossed), n);
      });
    }
  }
}

}  // namespace

void rope_tokens(const RopeParams& params, int64_t begin, int64_t end) {
  params.dtype == DType::bf16 ? rotate_tokens<bf16>(params, begin, end)
                              : rotate_tokens<float>(params, begin, end);
}

}  // namespace fathom::kernels::FATHOM_SET

#include "kernels/cpu/body/vec.h"
#include "kernels/cross_entropy.h"
#include "kernels/dispatch.h"

namespace fathom::kernels::FATHOM_SET {
namespace {

struct RowSum {
  float maximum;
  float sum;  // of exp(z - maximum)
};

// NaN logits leave a NaN sum: the maximum may pass them by.
template <typename T>
RowSum sum_exp(const T* z, int64_t size) {
  Vec tops[2] = {splat(-__builtin_inff()), splat(-__builtin_inff())};
  int64_t i = 0;
  for (; i + 2 * kWidth <= size; i += 2 * kWidth) {
    tops[0] = max(tops[0], load(z + i));
    tops[1] = max(tops[1], load(z + i + kWidth));
  }
  float maximum = max_of(max(tops[0], tops[1]));
  for (; i < size; ++i) {
    const float value = sum_of(load_first(z + i, 1));
    maximum = value > maximum ? value : maximum;
  }
  const Vec offset = splat(maximum);
  Vec sums[2] = {zero(), zero()};
  i = 0;
  for (; i + 2 * kWidth <= size; i += 2 * kWidth) {
    sums[0] = sums[0] + exp(load(z + i) - offset);
    sums[1] = sums[1] + exp(load(z + i + kWidth) - offset);
  }
  float sum = sum_of(sums[0] + sums[1]);
  for (; i < size; ++i) sum += __builtin_expf(sum_of(load_first(z + i, 1)) - maximum);
  return {maximum, sum};
}

template <typename T, typename Grad>
void rows(const CrossEntropyParams& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* z = static_cast<const T*>(p.logits) + row * p.logits_stride;
    Grad* dz = p.dlogits ? static_cast<Grad*>(p.dlogits) + row * p.dlogits_stride : nullptr;
    const int64_t target = p.targets[row];
    const bool is_ignored = target == p.ignore;
    if (is_ignored && !p.lse) {
      if (p.nll) p.nll[row] = 0;
      if (dz) std::memset(dz, 0, static_cast<std::size_t>(p.vocab_size) * sizeof(Grad));
      continue;
    }
    const RowSum s = sum_exp(z, p.vocab_size);
    const float log_sum = __builtin_logf(s.sum), lse = s.maximum + log_sum;
    if (p.lse) p.lse[row] = lse;
    const float z_target = is_ignored ? 0 : sum_of(load_first(z + target, 1));  // before dz may overwrite it
    if (p.nll) p.nll[row] = is_ignored ? 0 : (s.maximum - z_target) + log_sum;
    if (!dz) continue;
    if (is_ignored) {
      std::memset(dz, 0, static_cast<std::size_t>(p.vocab_size) * sizeof(Grad));
      continue;
    }
    const float coefficient = static_cast<float>(p.coefficient);
    const float factor = coefficient * (1 + 2 * static_cast<float>(p.z_loss) * lse) / s.sum;
    const Vec factor_vec = splat(factor), offset = splat(s.maximum);
    FATHOM_FOR_VECTORS(i, 0, p.vocab_size, store_n(dz + i, exp(load_n(z + i, n) - offset) * factor_vec, n););
    store_first(dz + target, splat(factor * __builtin_expf(z_target - s.maximum) - coefficient), 1);
  }
}

}  // namespace

void cross_entropy_rows(const CrossEntropyParams& params, int64_t begin, int64_t end) {
  const bool grad_is_bf16 = params.grad_type == DType::bf16;
  if (params.dtype == DType::bf16) {
    grad_is_bf16 ? rows<bf16, bf16>(params, begin, end) : rows<bf16, float>(params, begin, end);
  } else {
    grad_is_bf16 ? rows<float, bf16>(params, begin, end) : rows<float, float>(params, begin, end);
  }
}

}  // namespace fathom::kernels::FATHOM_SET

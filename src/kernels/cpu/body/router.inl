#include "kernels/cpu/body/vec.h"
#include "kernels/dispatch.h"
#include "kernels/router.h"

namespace fathom::kernels::FATHOM_SET {

void router_scores(Scoring scoring, const float* logits, float* scores, int64_t num_experts) {
  if (scoring == Scoring::sigmoid) {
    FATHOM_FOR_VECTORS(i, 0, num_experts, store_n(scores + i, sigmoid(load_n(logits + i, n)), n););
    return;
  }
  float top = -__builtin_inff();
  for (int64_t i = 0; i < num_experts; ++i) top = logits[i] > top ? logits[i] : top;
  float sum = 0;
  FATHOM_FOR_VECTORS(i, 0, num_experts, store_n(scores + i, exp(load_n(logits + i, n) - splat(top)), n););
  for (int64_t i = 0; i < num_experts; ++i) sum += scores[i];
  const Vec total = splat(sum);
  FATHOM_FOR_VECTORS(i, 0, num_experts, store_n(scores + i, load_n(scores + i, n) / total, n););
}

}  // namespace fathom::kernels::FATHOM_SET

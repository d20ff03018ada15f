#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/dispatch.h"

namespace fathom::kernels::reference {

void router_scores(Scoring scoring, const float* logits, float* scores, int64_t num_experts) {
  if (scoring == Scoring::sigmoid) {
    for (int64_t e = 0; e < num_experts; ++e)
      scores[e] = static_cast<float>(1 / (1 + std::exp(-double(logits[e]))));
    return;
  }
  double top = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t e = 0; e < num_experts; ++e) top = std::max(top, double(logits[e]));
  for (int64_t e = 0; e < num_experts; ++e) sum += std::exp(logits[e] - top);
  for (int64_t e = 0; e < num_experts; ++e) scores[e] = static_cast<float>(std::exp(logits[e] - top) / sum);
}

}  // namespace fathom::kernels::reference

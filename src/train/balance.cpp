#include "train/balance.h"

#include <algorithm>
#include <numeric>

namespace fathom::train {

void update_bias(float* bias, const std::vector<int64_t>& load, double rate, bool recenter) {
  const int64_t total = std::accumulate(load.begin(), load.end(), int64_t{0});
  if (total == 0 || rate == 0) return;
  const auto experts = static_cast<int64_t>(load.size());
  double sum = 0;
  for (int64_t e = 0; e < experts; ++e) {
    // mean - load, times E: exact in integers
    const int64_t lag = total - load[static_cast<size_t>(e)] * experts;
    bias[e] += static_cast<float>(rate) * static_cast<float>((lag > 0) - (lag < 0));
    sum += bias[e];
  }
  if (!recenter) return;
  const auto mean = static_cast<float>(sum / static_cast<double>(experts));
  for (int64_t e = 0; e < experts; ++e) bias[e] -= mean;
}

ExpertLoad measure_load(const std::vector<LayerCounts>& layers, int64_t step) {
  ExpertLoad result;
  result.step = step;
  for (const auto& [number, counts] : layers) {
    const auto total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
    LayerLoad& layer = result.layers.emplace_back();
    layer.layer = number;
    for (const int64_t count : counts)
      layer.load.push_back(total > 0 ? static_cast<double>(count) * static_cast<double>(counts.size()) / total
                                     : 0);
  }
  return result;
}

double largest_violation(const ExpertLoad& load) {
  double worst = load.layers.empty() ? kNotMeasured : 0;
  for (const LayerLoad& layer : load.layers) worst = std::max(worst, max_violation(layer.load));
  return worst;
}

}  // namespace fathom::train

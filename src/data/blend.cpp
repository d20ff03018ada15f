#include "data/blend.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "data/numpy_random.h"

namespace fathom::data {
namespace {

// `is_open(d)` says whether dataset d may still give samples.
template <typename IsOpen>
BlendIndex draw(std::span<const double> weights, int64_t size, IsOpen&& is_open) {
  BlendIndex index;
  index.dataset.reserve(static_cast<size_t>(size));
  index.sample.reserve(static_cast<size_t>(size));
  std::vector<int64_t> drawn(weights.size(), 0);
  for (int64_t i = 0; i < size; ++i) {
    const double position = std::max(static_cast<double>(i), 1.0);
    size_t chosen = 0;
    double largest = -std::numeric_limits<double>::infinity();
    for (size_t d = 0; d < weights.size(); ++d) {
      const double lag = weights[d] * position - static_cast<double>(drawn[d]);
      if (lag > largest && is_open(d, drawn[d])) {
        largest = lag;
        chosen = d;
      }
    }
    index.dataset.push_back(static_cast<int16_t>(chosen));
    index.sample.push_back(drawn[chosen]++);
  }
  return index;
}

}  // namespace

std::vector<double> normalized(std::span<const double> weights) {
  const double sum = numpy_sum(weights);
  std::vector<double> result(weights.begin(), weights.end());
  for (double& weight : result) weight /= sum;
  return result;
}

std::vector<int64_t> blend_sizes(std::span<const double> normalized_weights, int64_t total, double surplus) {
  std::vector<int64_t> sizes;
  for (const double weight : normalized_weights)
    sizes.push_back(
        static_cast<int64_t>(std::ceil(std::ceil(static_cast<double>(total) * weight) * (1 + surplus))));
  return sizes;
}

BlendIndex blend(std::span<const double> weights, int64_t size) {
  return draw(weights, size, [](size_t, int64_t) { return true; });
}

BlendIndex blend_exhaustive(std::span<const int64_t> sizes) {
  int64_t total = 0;
  for (const int64_t size : sizes) total += size;
  std::vector<double> weights;
  for (const int64_t size : sizes) weights.push_back(static_cast<double>(size) / static_cast<double>(total));
  return draw(weights, total, [&](size_t d, int64_t drawn) { return drawn < sizes[d]; });
}

}  // namespace fathom::data

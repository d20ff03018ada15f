#include "train/curve.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace fathom::train {

void Curve::add(int64_t step, double value) {
  if (!std::isfinite(value)) return;
  steps.push_back(step);
  values.push_back(value);
}

Curve downsample(const Curve& curve, int64_t most_points) {
  const auto size = static_cast<int64_t>(curve.size());
  const int64_t ranges = std::max<int64_t>(1, (most_points - 2) / 2);
  if (size <= std::max<int64_t>(most_points, 4)) return curve;
  Curve out;
  const auto keep = [&](int64_t i) {
    if (!out.steps.empty() && out.steps.back() == curve.steps[static_cast<size_t>(i)]) return;
    out.add(curve.steps[static_cast<size_t>(i)], curve.values[static_cast<size_t>(i)]);
  };
  keep(0);
  for (int64_t r = 0; r < ranges; ++r) {
    const auto begin = curve.values.begin() + r * size / ranges,
               end = curve.values.begin() + (r + 1) * size / ranges;
    const int64_t low = std::min_element(begin, end) - curve.values.begin();
    const int64_t high = std::max_element(begin, end) - curve.values.begin();
    keep(std::min(low, high));
    keep(std::max(low, high));
  }
  keep(size - 1);
  return out;
}

Curve smooth(const Curve& curve, int64_t window, int64_t most_points) {
  const auto size = static_cast<int64_t>(curve.size());
  const int64_t count = std::min(size, std::max<int64_t>(most_points, 2));
  Curve out;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t i = count == 1 ? 0 : k * (size - 1) / (count - 1);
    // As many points on either side, but at the very ends not fewer than an eighth of the window on one.
    const int64_t half = std::max(std::min({window / 2, i, size - 1 - i}), std::max<int64_t>(window / 8, 0));
    const int64_t begin = std::max<int64_t>(i - half, 0), end = std::min(i + half + 1, size);
    // Summed anew for each point: running sums would carry one huge value's rounding to the end of the run.
    // Scaled first, since the sum of huge values is no number.
    const double scale = 1 / static_cast<double>(end - begin);
    double mean = 0;
    for (int64_t j = begin; j < end; ++j) mean += curve.values[static_cast<size_t>(j)] * scale;
    out.add(curve.steps[static_cast<size_t>(i)], mean);
  }
  return out;
}

}  // namespace fathom::train

// Curves for the report: long histories made short without losing their peaks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fathom::train {

struct Curve {
  std::vector<int64_t> steps;
  std::vector<double> values;  // finite
  size_t size() const { return steps.size(); }
  void add(int64_t step, double value);  // leaves out what is not finite
};

// At most about `most_points` points of the curve, in order: it is cut into ranges of equally many points,
// and each gives its lowest and its highest (the first of equals). The first and the last point always stay.
// Short curves come back as they are.
Curve downsample(const Curve& curve, int64_t most_points);

// The mean of the `window` points around each point (near the ends fewer, but as many on either side: no
// lag), at no more than `most_points` points, evenly spread, the first and the last among them.
Curve smooth(const Curve& curve, int64_t window, int64_t most_points);

}  // namespace fathom::train

// From which dataset each sample of a weighted blend comes: megatron-core's greedy order. Sample i is drawn
// from the dataset that lags its share the most (weight * max(i, 1) - samples drawn so far; ties to the
// first), so after any number of samples every dataset is within one of its target.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fathom::data {

struct BlendIndex {
  std::vector<int16_t> dataset;  // per sample
  std::vector<int64_t> sample;   // index inside that dataset: 0, 1, 2, ... per dataset
};

std::vector<double> normalized(std::span<const double> weights);  // to sum 1, in NumPy's rounding

// How many samples each dataset is planned to give, ceil(total * weight), and with `surplus` how many it is
// built for.
std::vector<int64_t> blend_sizes(std::span<const double> normalized_weights, int64_t total, double surplus);

BlendIndex blend(std::span<const double> weights, int64_t size);
// Every sample of every dataset once, mixed in proportion to their sizes.
BlendIndex blend_exhaustive(std::span<const int64_t> sizes);

}  // namespace fathom::data

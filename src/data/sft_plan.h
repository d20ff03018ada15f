// Which samples an SFT dataset is made of, in which order, and which share a row.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fathom::data {

// The order of the samples of several files. Without weights: all of each, file after file. With: so many that the
// files' shares are the weights (within one sample at every place, see blend.h), each file's in a random order that
// `seed` decides. `total` 0: as many as there are without giving one twice; more repeat a file in a new order.
// Returns indices into all samples, file after file. Sizes of 0 take no part.
std::vector<int64_t> mix_samples(std::span<const int64_t> sizes, std::span<const double> weights,
                                 int64_t total, uint32_t seed);

// Rows of samples whose lengths add up to at most `capacity`: best fit, the longest first. Row r holds
// order[begins[r] .. begins[r + 1]), in ascending order; rows are ordered by their first sample. Each length must be at
// most `capacity`.
struct PackingPlan {
  std::vector<int64_t> order, begins;
  int64_t rows() const { return static_cast<int64_t>(begins.size()) - 1; }
};
PackingPlan pack_samples(std::span<const int32_t> lengths, int64_t capacity);
PackingPlan one_a_row(int64_t samples);

}  // namespace fathom::data

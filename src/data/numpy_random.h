// What Megatron's sample order takes from NumPy, bit for bit: RandomState(seed) (MT19937, the legacy
// generator whose stream NumPy keeps unchanged for ever, NEP 19), its in-place shuffle, and the order of
// summation of numpy.sum.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <utility>

namespace fathom::data {

class NumpyRandomState {
 public:
  explicit NumpyRandomState(uint32_t seed) : generator_(seed) {}

  // Uniform in [0, highest], by masks and rejection.
  uint64_t interval(uint64_t highest);

  // Fisher-Yates from the back. Partners are drawn a block ahead, so that memory is asked for before it is
  // needed: they depend on the places only.
  template <typename T>
  void shuffle(std::span<T> values) {
    constexpr size_t kBlock = 64;
    uint64_t partners[kBlock];
    for (size_t i = values.size(); i > 1;) {
      const size_t count = std::min(kBlock, i - 1);
      for (size_t k = 0; k < count; ++k) {
        partners[k] = interval(i - 1 - k);
        __builtin_prefetch(&values[partners[k]], 1);
      }
      for (size_t k = 0; k < count; ++k) std::swap(values[i - 1 - k], values[partners[k]]);
      i -= count;
    }
  }

 private:
  std::mt19937 generator_;  // seeded as NumPy's legacy seeding does with an integer
};

// numpy.sum of contiguous float64: eight running sums a block of up to 128, blocks joined pairwise.
double numpy_sum(std::span<const double> values);

}  // namespace fathom::data

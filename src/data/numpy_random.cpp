#include "data/numpy_random.h"

namespace fathom::data {

uint64_t NumpyRandomState::interval(uint64_t highest) {
  if (highest == 0) return 0;
  uint64_t mask = highest;
  for (int shift = 1; shift < 64; shift *= 2) mask |= mask >> shift;
  uint64_t value;
  do {
    if (highest <= 0xffffffffu) {
      value = generator_() & mask;
    } else {
      const uint64_t high = generator_();  // two statements: the order of the draws is part of the stream
      value = (high << 32 | generator_()) & mask;
    }
  } while (value > highest);
  return value;
}

double numpy_sum(std::span<const double> values) {
  const size_t n = values.size();
  if (n < 8) {
    double sum = 0;
    for (const double value : values) sum += value;
    return sum;
  }
  if (n > 128) {
    size_t half = n / 2;
    half -= half % 8;
    return numpy_sum(values.first(half)) + numpy_sum(values.subspan(half));
  }
  double lane[8];
  for (size_t i = 0; i < 8; ++i) lane[i] = values[i];
  size_t i = 8;
  for (; i + 8 <= n; i += 8)
    for (size_t k = 0; k < 8; ++k) lane[k] += values[i + k];
  double sum = ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
  for (; i < n; ++i) sum += values[i];
  return sum;
}

}  // namespace fathom::data

#include "checkpoint/static_activation.h"

#include <algorithm>
#include <cmath>

#include "base/bfloat16.h"
#include "base/error.h"

namespace fathom::checkpoint {
namespace {

// The smallest bfloat16 that is not below x > 0.
float bf16_above(float x) {
  bf16 rounded = to_bf16(x);
  if (to_float(rounded) < x) ++rounded.bits;
  return to_float(rounded);
}

}  // namespace

StaticActivation static_activation(std::span<const float> minimum, std::span<const float> maximum,
                                   bool with_shift) {
  FATHOM_ASSERT(minimum.size() == maximum.size());
  StaticActivation result;
  result.shift.resize(minimum.size(), 0);
  float largest = 0;
  for (size_t j = 0; j < minimum.size(); ++j) {
    if (with_shift) result.shift[j] = to_float(to_bf16(-(minimum[j] + (maximum[j] - minimum[j]) / 2)));
    largest =
        std::max({largest, std::abs(minimum[j] + result.shift[j]), std::abs(maximum[j] + result.shift[j])});
  }
  if (largest > 0) result.scale = bf16_above(largest / 127);
  return result;
}

std::vector<int32_t> shift_bias(std::span<const int8_t> codes, const StaticActivation& activation) {
  const size_t columns = activation.shift.size();
  if (columns == 0) return {};
  std::vector<int32_t> result(codes.size() / columns);
  for (size_t r = 0; r < result.size(); ++r) {
    double sum = 0;
    for (size_t j = 0; j < columns; ++j)
      sum += static_cast<double>(codes[r * columns + j]) * static_cast<double>(activation.shift[j]);
    result[r] = static_cast<int32_t>(std::clamp(std::nearbyint(-sum / static_cast<double>(activation.scale)),
                                                -2147483647.0, 2147483647.0));
  }
  return result;
}

}  // namespace fathom::checkpoint

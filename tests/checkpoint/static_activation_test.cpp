#include "checkpoint/static_activation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace fathom::checkpoint {
namespace {

TEST(StaticActivation, the_shift_comes_out_again) {
  constexpr size_t kIn = 37, kOut = 11, kTokens = 50;
  std::mt19937_64 draw(3);
  std::normal_distribution<float> normal;
  std::vector<float> offset(kIn), low(kIn, 1e9f), high(kIn, -1e9f);
  for (float& o : offset) o = 8 * normal(draw);
  std::vector<std::vector<float>> x(kTokens, std::vector<float>(kIn));
  for (auto& row : x)
    for (size_t j = 0; j < kIn; ++j) {
      row[j] = offset[j] + normal(draw);
      low[j] = std::min(low[j], row[j]);
      high[j] = std::max(high[j], row[j]);
    }
  std::vector<int8_t> codes(kOut * kIn);
  for (int8_t& code : codes) code = static_cast<int8_t>(static_cast<int>(draw() % 255) - 127);

  double errors[2];
  for (const bool with_shift : {false, true}) {
    const StaticActivation activation = static_activation(low, high, with_shift);
    const std::vector<int32_t> bias = shift_bias(codes, activation);
    ASSERT_EQ(bias.size(), kOut);
    double worst = 0;
    for (const auto& row : x)
      for (size_t r = 0; r < kOut; ++r) {
        double exact = 0, sum = bias[r];
        for (size_t j = 0; j < kIn; ++j) {
          exact += static_cast<double>(codes[r * kIn + j]) * row[j];
          const float q = std::nearbyint((row[j] + activation.shift[j]) / activation.scale);
          EXPECT_LE(std::abs(q), 127);
          sum += static_cast<double>(codes[r * kIn + j]) * static_cast<double>(q);
        }
        // Half a step an input, half a step of the bias, each times the largest code.
        worst = std::max(worst, std::abs(sum * activation.scale - exact));
      }
    EXPECT_LT(worst, activation.scale * (0.5 * 127 * kIn + 0.5) * 1.01);
    errors[with_shift] = worst;
  }
  EXPECT_LT(errors[true], errors[false] / 2);  // the channels' offsets cost no range any more
}

TEST(StaticActivation, a_channel_that_never_moved) {
  const std::vector<float> zero(4, 0);
  const StaticActivation activation = static_activation(zero, zero);
  EXPECT_EQ(activation.scale, 1);
  EXPECT_TRUE(shift_bias({}, static_activation({}, {})).empty());
}

}  // namespace
}  // namespace fathom::checkpoint

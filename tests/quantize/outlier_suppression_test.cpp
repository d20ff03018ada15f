// Scales of Outlier Suppression+: what they are, and that the quantised product gains.
#include "quantize/outlier_suppression.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/round.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "checkpoint/static_activation.h"

namespace fathom::quantize {
namespace {

at::Tensor normal(int64_t rows, int64_t columns, uint64_t seed) {
  std::mt19937_64 draw(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(rows * columns));
  for (float& value : values) value = normal(draw);
  return at::from_blob(values.data(), {rows, columns}, at::TensorOptions().dtype(at::kFloat)).clone();
}

std::vector<float> to_vector(const at::Tensor& x) {
  return {x.const_data_ptr<float>(), x.const_data_ptr<float>() + x.numel()};
}

// |y' - y| / |y| of y = x w^T with int8 weights by row and static int8 inputs, shifted, divided by `scales`.
double loss(const at::Tensor& x, const at::Tensor& w, const at::Tensor& scales) {
  ChannelRanges ranges;
  const at::Tensor divided = x / scales, multiplied = w * scales;
  ranges.add(divided);
  const checkpoint::StaticActivation inputs =
      checkpoint::static_activation(to_vector(ranges.minimum), to_vector(ranges.maximum));
  const at::Tensor shift = at::from_blob(const_cast<float*>(inputs.shift.data()), {x.size(1)},
                                         at::TensorOptions().dtype(at::kFloat));
  const at::Tensor codes = at::round((divided + shift) / inputs.scale) * inputs.scale - shift;
  const at::Tensor steps = at::amax(multiplied.abs(), {1}, true) / 127;
  const at::Tensor weights = at::round(multiplied / steps) * steps;
  const at::Tensor exact = at::mm(x, w.t());
  return ((at::mm(codes, weights.t()) - exact).norm() / exact.norm()).item<double>();
}

TEST(OutlierSuppression, only_channels_that_reach_far_are_divided) {
  at::Tensor x = normal(400, 32, 1);
  const at::Tensor w = normal(24, 32, 2);
  x.select(1, 3).mul_(60);
  x.select(1, 17).mul_(25).add_(40);
  x.select(1, 20).add_(30);  // an offset alone is the shift's affair
  ChannelRanges ranges;
  ranges.add(x.narrow(0, 0, 150));
  ranges.add(x.narrow(0, 150, 250));
  const at::Tensor scales = outlier_suppression_scales(ranges, {w.narrow(0, 0, 8), w.narrow(0, 8, 16)});
  for (int64_t j = 0; j < 32; ++j) {
    const float scale = scales[j].item<float>();
    int exponent = 0;
    EXPECT_EQ(std::frexp(scale, &exponent), 0.5f) << j;  // a power of two
    if (j == 3 || j == 17)
      EXPECT_GE(scale, 2) << j;
    else
      EXPECT_EQ(scale, 1) << j;
  }
  EXPECT_LT(loss(x, w, scales), 0.6 * loss(x, w, at::ones({32})));
}

// Where inputs are even, dividing them would only cost the weights.
TEST(OutlierSuppression, even_inputs_are_left_alone) {
  at::Tensor x = normal(4000, 16, 3).clamp(-2, 2);
  const at::Tensor w = normal(40, 16, 4);
  ChannelRanges ranges;
  ranges.add(x);
  EXPECT_TRUE(at::equal(outlier_suppression_scales(ranges, {w}), at::ones({16})));
}

TEST(OutlierSuppression, inputs_that_are_always_the_same) {
  ChannelRanges ranges;
  ranges.add(at::ones({5, 8}));
  EXPECT_TRUE(at::equal(outlier_suppression_scales(ranges, {normal(3, 8, 5)}), at::ones({8})));
  ranges.add(at::zeros({1, 8}));
  EXPECT_TRUE(at::equal(outlier_suppression_scales(ranges, {at::zeros({3, 8})}), at::ones({8})));
}

TEST(OutlierSuppression, ranges_that_are_divided_are_those_of_divided_inputs) {
  const at::Tensor x = normal(30, 4, 6), scales = at::ones({4}) * 4;
  ChannelRanges ranges, divided;
  ranges.add(x);
  ranges.divide(scales);
  divided.add(x / scales);
  EXPECT_TRUE(at::equal(ranges.minimum, divided.minimum));
  EXPECT_TRUE(at::equal(ranges.maximum, divided.maximum));
  EXPECT_TRUE(at::equal(ranges.square_sum, divided.square_sum));
  EXPECT_EQ(ranges.rows, divided.rows);
}

}  // namespace
}  // namespace fathom::quantize

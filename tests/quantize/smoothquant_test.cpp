#include "quantize/smoothquant.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "checkpoint/tensor_view.h"
#include "quantize/input_statistics.h"
#include "support/trained_model.h"

namespace fathom::quantize {
namespace {

at::Tensor floats(std::vector<float> values) { return at::tensor(values); }

TEST(SmoothQuant, scales_are_equation_4_to_a_power_of_two) {
  std::mt19937_64 draw(1);
  std::lognormal_distribution<float> wide(0, 3);
  for (const double alpha : {0.0, 0.5, 0.75, 1.0})
    for (int i = 0; i < 100; ++i) {
      const float x = wide(draw), w = wide(draw);
      const float found = smoothing_scales(floats({x}), floats({w}), alpha).item<float>();
      const double exact = std::pow(x, alpha) / std::pow(w, 1 - alpha);
      int exponent;
      EXPECT_EQ(std::frexp(found, &exponent), 0.5f);
      EXPECT_LE(std::abs(std::log2(found / exact)), 0.5 + 1e-9);
    }
  EXPECT_TRUE(at::equal(smoothing_scales(floats({0, 4, 0}), floats({4, 0, 0}), 0.5), floats({1, 1, 1})));
}

TEST(SmoothQuant, every_reader_of_a_norm_takes_part) {
  const config::TensorTable table(config::read_model_config(test::golden_directory("trained")));
  const std::vector<SmoothingGroup> dense = smoothing_groups(table, 0), moe = smoothing_groups(table, 1);
  ASSERT_EQ(dense.size(), 4u);
  EXPECT_EQ(dense[0].norm, "model.layers.0.input_layernorm.weight");
  EXPECT_THAT(dense[0].readers, testing::ElementsAre("model.layers.0.self_attn.q_a_proj.weight",
                                                     "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"));
  EXPECT_THAT(dense[1].readers, testing::ElementsAre("model.layers.0.self_attn.q_b_proj.weight"));
  EXPECT_THAT(dense[2].readers, testing::ElementsAre("model.layers.0.self_attn.kv_b_proj.weight"));
  EXPECT_THAT(dense[3].readers, testing::ElementsAre("model.layers.0.mlp.gate_proj.weight",
                                                     "model.layers.0.mlp.up_proj.weight"));
  ASSERT_EQ(moe.size(), 4u);
  EXPECT_EQ(moe[3].readers.size(), 1u + 2 * 8 + 2);  // router, routed, shared
  EXPECT_THAT(moe[3].readers, testing::Contains("model.layers.1.mlp.gate.weight"));
  // Without query compression: q_proj beside kv_a.
  const config::TensorTable lite(config::read_model_config(test::golden_directory("moonlight")));
  EXPECT_THAT(smoothing_groups(lite, 0)[0].readers,
              testing::ElementsAre("model.layers.0.self_attn.q_proj.weight",
                                   "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"));
  EXPECT_EQ(smoothing_groups(lite, 0).size(), 3u);
}

TEST(SmoothQuant, the_function_stays) {
  const at::NoGradGuard no_grad;
  for (const char* fixture : {"trained", "moonlight"}) {
    const std::filesystem::path directory = test::golden_directory(fixture);
    test::WholeModel source(directory), folded(directory);
    const model::MicroBatch batch = model::make_micro_batch(test::trained_language(2, 8), 0);
    std::mt19937_64 draw(2);
    int64_t norms = 0;
    for (int64_t layer = 0; layer < source.config.num_layers_with_mtp(); ++layer)
      for (const SmoothingGroup& group : smoothing_groups(source.registry.table(), layer)) {
        const int64_t channels = source.values(group.norm).numel();
        std::vector<float> scales;
        for (int64_t j = 0; j < channels; ++j)
          scales.push_back(std::exp2(static_cast<float>(static_cast<int>(draw() % 9) - 4)));
        fold(folded.registry, group, at::tensor(scales));
        ++norms;
      }
    EXPECT_GE(norms, 6);
    const at::Tensor before = source.model.logits(source.model.hidden(batch)),
                     after = folded.model.logits(folded.model.hidden(batch));
    EXPECT_LT((after - before).abs().max().item<double>(), 1e-5) << fixture;
    EXPECT_FALSE(at::equal(source.values("model.layers.0.input_layernorm.weight"),
                           folded.values("model.layers.0.input_layernorm.weight")));
  }
}

TEST(SmoothQuant, views_are_scaled_as_the_registry_is) {
  checkpoint::TensorView view;
  view.name = "w";
  view.shape = {2, 3};
  view.read = [](int64_t begin, int64_t count, formats::Dtype as, std::byte* out) {
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<float>(begin + i));
    checkpoint::store_floats(values.data(), count, as, out);
  };
  const checkpoint::TensorView found = scaled(view, {1, 2, 4});
  std::vector<float> values(4);
  found.read(2, 4, formats::Dtype::F32, reinterpret_cast<std::byte*>(values.data()));
  EXPECT_THAT(values, testing::ElementsAre(2 * 4, 3 * 1, 4 * 2, 5 * 4));
}

TEST(InputStatistics, division_is_that_of_the_inputs) {
  ops::Weight weight;
  const at::Tensor x = at::tensor({1.f, -2.f, 3.f, 4.f, 5.f, -6.f}).view({2, 3}),
                   scales = floats({2, 4, 0.5});
  InputStatistics plain(true), divided(true);
  plain.observe(weight, x / scales);
  divided.observe(weight, x);
  divided.divide(weight, scales);
  EXPECT_TRUE(at::equal(plain.find(weight)->hessian, divided.find(weight)->hessian));
  EXPECT_TRUE(at::equal(plain.find(weight)->ranges.minimum, divided.find(weight)->ranges.minimum));
  EXPECT_TRUE(at::equal(plain.find(weight)->ranges.maximum, divided.find(weight)->ranges.maximum));
  EXPECT_TRUE(at::equal(divided.find(weight)->ranges.largest(), floats({2, 1.25, 12})));
}

}  // namespace
}  // namespace fathom::quantize

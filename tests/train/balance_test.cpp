#include "train/balance.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "base/bfloat16.h"
#include "support/scratch.h"
#include "support/tiny_training.h"
#include "weights/load_weights.h"
#include "weights/save_weights.h"

namespace fathom::train {
namespace {

using Load = std::vector<int64_t>;

// NUM-4: once a step, by the sign of mean - load.
TEST(Balance, NUM_4_bias_moves_against_the_load) {
  std::vector<float> bias(4, 0.0f);
  update_bias(bias.data(), {10, 0, 4, 2}, 0.001, false);
  EXPECT_EQ(bias, (std::vector<float>{-0.001f, 0.001f, 0.0f, 0.001f}));
}

TEST(Balance, NUM_4_recentred_keeps_the_choice) {
  std::vector<float> plain(4, 0.0f), recentred(4, 0.0f);
  update_bias(recentred.data(), {10, 0, 4, 2}, 0.001, true);
  const std::vector<float> expected = {-0.00125f, 0.00075f, -0.00025f, 0.00075f};
  for (size_t e = 0; e < 4; ++e) EXPECT_NEAR(recentred[e], expected[e], 1e-9);
  update_bias(plain.data(), {10, 0, 4, 2}, 0.001, false);
  // All differ by one number, so every comparison of score + bias comes out the same.
  for (size_t e = 1; e < 4; ++e) EXPECT_NEAR(plain[e] - recentred[e], plain[0] - recentred[0], 1e-9);
}

TEST(Balance, recentred_bias_stays_recentred_over_many_steps) {
  std::vector<float> bias(3, 0.0f);
  for (int64_t step = 0; step < 1000; ++step)
    update_bias(bias.data(), {step % 7, 3, 5 - step % 5}, 0.001, true);
  EXPECT_NEAR(std::accumulate(bias.begin(), bias.end(), 0.0), 0, 1e-5);
}

TEST(Balance, no_load_or_no_rate_changes_nothing) {
  std::vector<float> bias = {0.5f, -0.25f};
  const std::vector<float> before = bias;
  update_bias(bias.data(), {0, 0}, 0.001, true);
  EXPECT_EQ(bias, before);
  update_bias(bias.data(), {3, 0}, 0, true);
  EXPECT_EQ(bias, before);
}

// The mean is compared exactly: one token of billions tips the sign.
TEST(Balance, exact_for_huge_counts) {
  std::vector<float> bias(2, 0.0f);
  const int64_t huge = int64_t{1} << 55;
  update_bias(bias.data(), {huge, huge}, 1, false);
  EXPECT_EQ(bias, (std::vector<float>{0.0f, 0.0f}));
  update_bias(bias.data(), {huge + 2, huge}, 1, false);
  EXPECT_EQ(bias, (std::vector<float>{-1.0f, 1.0f}));
}

// NUM-3: a hundred steps of 0.001 arrive at 1.1, which bf16 could not.
TEST(Balance, NUM_3_a_hundred_small_updates_add_up) {
  std::vector<float> bias = {1.0f, 1.0f};
  for (int step = 0; step < 100; ++step) update_bias(bias.data(), {0, 9}, 0.001, false);
  EXPECT_NEAR(bias[0], 1.1f, 1e-5);
  EXPECT_NEAR(bias[1], 0.9f, 1e-5);
}

// The biases of a bf16 model are float32 in memory, on disk, and again in memory.
TEST(Balance, NUM_3_256_close_biases_stay_distinct_through_a_bf16_checkpoint) {
  config::ModelConfig config = test::lively_model();
  config.n_routed_experts = 256;
  config.raw["n_routed_experts"] = 256;
  test::TinyTraining saved(config, config::Precision::bf16), loaded(config, config::Precision::bf16);
  const std::string name = "model.layers.1.mlp.gate.e_score_correction_bias";
  float* bias = saved.parameter(name).value.mutable_data_ptr<float>();
  std::set<uint16_t> narrow;
  for (int e = 0; e < 256; ++e) {
    bias[e] = static_cast<float>(6.817 + (7.063 - 6.817) * e / 255);
    narrow.insert(to_bf16(bias[e]).bits);
  }
  EXPECT_EQ(narrow.size(), 9U) << "what bfloat16 would leave of them";
  const test::ScratchDirectory scratch;
  weights::save_weights(saved.registry, scratch.path());
  weights::load_weights(loaded.registry, scratch.path());
  float* again = loaded.parameter(name).value.mutable_data_ptr<float>();
  EXPECT_EQ(std::set<float>(again, again + 256).size(), 256U);
  for (int e = 0; e < 256; ++e) ASSERT_EQ(again[e], bias[e]);
  again[0] = 1;
  std::vector<int64_t> load(256, 5);
  load[0] = 0;
  for (int step = 0; step < 100; ++step) update_bias(again, load, 0.001, false);
  EXPECT_NEAR(again[0], 1.1f, 1e-5);
}

TEST(Balance, largest_violation_is_over_the_layers) {
  ExpertLoad load;
  EXPECT_TRUE(std::isnan(largest_violation(load)));  // no MoE layer
  load.layers = {{1, {1, 1, 1, 1}}, {2, {2.5, 0.5, 0.5, 0.5}}, {3, {0, 0, 0, 0}}};
  EXPECT_NEAR(largest_violation(load), 1.5, 1e-12);
}

}  // namespace
}  // namespace fathom::train

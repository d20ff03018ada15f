// Rotary layouts (INF-3), the latent cache (MEM-2), and what both promise.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <cmath>

#include <filesystem>

#include "config/model_config.h"
#include "model/latent_cache.h"
#include "model/rope_table.h"
#include "ops/attention.h"

namespace fathom {
namespace {

const std::filesystem::path kConfigs = std::filesystem::path(FATHOM_SOURCE_DIR) / "configs" / "models";

// [evens, odds]: the rows' order that half-split code wants.
at::Tensor split_halves(const at::Tensor& x) {
  const int64_t half = x.size(-1) / 2;
  const at::Tensor pairs = x.unflatten(-1, {half, 2});
  return at::cat({pairs.select(-1, 0), pairs.select(-1, 1)}, -1);
}

TEST(Rope, INF_3_both_layouts_give_one_score_and_permuting_only_k_does_not) {
  const config::ModelConfig config = config::read_model_config(kConfigs / "deepseek-v3-671b.json");
  const model::RopeTable table(config, at::kFloat);
  const int64_t R = config.qk_rope_head_dim;
  const auto [cos, sin] = table.at(at::arange(1, 3, at::kLong));
  const at::Tensor q = (at::arange(2 * R, at::kFloat) * 0.37).sin().view({2, 1, R});
  const at::Tensor k = (at::arange(2 * R, at::kFloat) * 0.73).cos().view({2, 1, R});
  const auto score = [](const at::Tensor& a, const at::Tensor& b) {
    return (a[0] * b[1]).sum().item<double>();
  };
  const double interleaved =
      score(ops::rotate_pairs(q, cos, sin, true), ops::rotate_pairs(k, cos, sin, true));
  const at::Tensor q_half = split_halves(q), k_half = split_halves(k);
  EXPECT_NEAR(interleaved,
              score(ops::rotate_pairs(q_half, cos, sin, false), ops::rotate_pairs(k_half, cos, sin, false)),
              1e-5);
  EXPECT_GT(std::abs(interleaved - score(ops::rotate_pairs(q, cos, sin, false),
                                         ops::rotate_pairs(k_half, cos, sin, false))),
            1e-2);
}

TEST(Rope, angles_are_position_times_inverse_frequency) {
  const config::ModelConfig config = config::read_model_config(kConfigs / "deepseek-v3-671b.json");
  const auto [cos, sin] = model::RopeTable(config, at::kFloat).at(at::arange(0, 4, at::kLong));
  EXPECT_EQ(cos[0][5].item<float>(), 1.0f);
  EXPECT_NEAR(sin[3][10].item<float>(), std::sin(3 * 0.0562341325),
              1e-6);  // INF-2: pair 10 is untouched by YaRN
  EXPECT_NEAR(sin[3][31].item<float>(), std::sin(3 * 3.33380358e-06), 1e-9);
}

TEST(LatentCache, MEM_2_576_values_a_token_a_layer) {
  const config::ModelConfig config = config::read_model_config(kConfigs / "deepseek-v3-671b.json");
  EXPECT_EQ(config.latent_dim(), 576);
  const model::LatentCache cache(config.num_hidden_layers, config.latent_dim(), 16, at::kBFloat16);
  EXPECT_EQ(cache.bytes(), 16u * 70272u);
}

TEST(LatentCache, keeps_what_was_appended) {
  model::LatentCache cache(2, 3, 4, at::kFloat);
  cache.append(0, at::ones({2, 3}));
  cache.append(1, at::ones({2, 3}) * 2);
  cache.advance(2);
  cache.append(1, at::ones({1, 3}) * 5);
  EXPECT_EQ(cache.length(), 2);
  EXPECT_EQ(cache.view(1, 3)[2][0].item<float>(), 5.0f);
  EXPECT_EQ(cache.view(1, 3)[1][0].item<float>(), 2.0f);
  EXPECT_EQ(cache.view(0, 2)[1][2].item<float>(), 1.0f);
  EXPECT_THROW(cache.append(0, at::ones({3, 3})), std::logic_error);
}

}  // namespace
}  // namespace fathom

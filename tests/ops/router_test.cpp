#include "ops/router.h"

#include <gtest/gtest.h>

#include <ATen/ops/tensor.h>

#include <cmath>

#include "support/tensors.h"

namespace fathom::ops {
namespace {

using test::ForcedIsa;

config::ModelConfig router_config(int64_t experts, int64_t choices) {
  config::ModelConfig config;
  config.n_routed_experts = experts;
  config.num_experts_per_tok = choices;
  config.n_group = config.topk_group = 1;
  config.topk_method = config::TopkMethod::noaux_tc;
  config.scoring_func = config::ScoringFunc::sigmoid;
  config.norm_topk_prob = true;
  config.routed_scaling_factor = 2.5;
  return config;
}

at::Tensor logits_of(const std::vector<double>& scores) {
  std::vector<double> logits;
  for (const double s : scores) logits.push_back(std::log(s / (1 - s)));
  return at::tensor(logits, at::TensorOptions().dtype(at::kFloat)).view({1, -1});
}

TEST(Router, NUM_2_bias_steers_the_choice_only) {
  for (const kernels::Isa isa : test::bodies()) {
    const ForcedIsa forced(isa);
    const at::Tensor bias = at::tensor({-0.5f, 0.0f, 0.3f, 0.1f});
    const Routing routing = route(logits_of({0.9, 0.7, 0.5, 0.3}), bias, router_config(4, 2));
    EXPECT_EQ(routing.indices[0][0].item<int>(), 2) << kernels::name(isa);
    EXPECT_EQ(routing.indices[0][1].item<int>(), 1);
    EXPECT_NEAR(routing.weights[0][0].item<double>(), 1.041667, 1e-6);
    EXPECT_NEAR(routing.weights[0][1].item<double>(), 1.458333, 1e-6);
    EXPECT_NEAR(routing.scores[0][0].item<double>(), 0.9, 1e-6) << "unbiased";
  }
}

TEST(Router, NUM_2_a_bias_that_changes_no_choice_changes_no_weight) {
  for (const kernels::Isa isa : test::bodies()) {
    const ForcedIsa forced(isa);
    const at::Tensor logits = test::normal({50, 8}, "logits");
    const config::ModelConfig config = router_config(8, 3);
    const Routing plain = route(logits, at::Tensor(), config);
    const Routing shifted = route(logits, at::tensor(std::vector<float>(8, -7.25f)), config);
    EXPECT_TRUE(shifted.indices.equal(plain.indices)) << kernels::name(isa);
    EXPECT_TRUE(shifted.weights.equal(plain.weights));
  }
}

TEST(Router, ties_go_to_the_lower_expert_in_every_body) {
  for (const kernels::Isa isa : test::bodies()) {
    const ForcedIsa forced(isa);
    const Routing routing = route(logits_of({0.5, 0.5, 0.5, 0.5, 0.5}), at::Tensor(), router_config(5, 3));
    for (int k = 0; k < 3; ++k) EXPECT_EQ(routing.indices[0][k].item<int>(), k) << kernels::name(isa);
  }
}

// One bias apart by less than bf16 can tell decides.
TEST(Router, NUM_3_bias_and_logits_count_in_float32) {
  for (const kernels::Isa isa : test::bodies()) {
    const ForcedIsa forced(isa);
    at::Tensor bias = at::tensor(std::vector<float>(256, 6.9f));
    for (int e = 0; e < 256; ++e) bias[e] = 6.817 + 0.246 * ((e * 37) % 256) / 255.0;
    const Routing routing = route(logits_of(std::vector<double>(256, 0.5)), bias, router_config(256, 8));
    for (int k = 0; k < 8; ++k)
      EXPECT_EQ((routing.indices[0][k].item<int>() * 37) % 256, 255 - k) << kernels::name(isa);
  }
}

// Whatever body: the gradients of weights and scores against those of the composition in double.
TEST(Router, gradients_agree_in_every_body) {
  for (const bool softmax : {false, true}) {
    config::ModelConfig config = router_config(8, 3);
    config.n_group = 4, config.topk_group = 2;
    if (softmax) config.scoring_func = config::ScoringFunc::softmax;
    const at::Tensor logits = test::normal({20, 8}, "logits"), bias = test::normal({8}, "bias", 0.3f);
    const at::Tensor d_weights = test::normal({20, 3}, "dw"), d_scores = test::normal({20, 8}, "ds");
    const auto gradient = [&](at::ScalarType dtype) {
      const at::Tensor leaf = logits.to(dtype).detach().clone().requires_grad_(true);
      const Routing routing = route(leaf, bias, config);
      ((routing.weights * d_weights).sum() + (routing.scores * d_scores).sum()).backward();
      return leaf.grad();
    };
    const at::Tensor expected = gradient(at::kDouble);
    for (const kernels::Isa isa : test::bodies()) {
      const ForcedIsa forced(isa);
      EXPECT_LT(test::relative_error(gradient(at::kFloat), expected), 1e-5) << kernels::name(isa) << softmax;
    }
  }
}

// Report eqs. 17-20 by plain loops.
TEST(BalanceLoss, the_papers_sum) {
  constexpr int64_t B = 3, S = 5, E = 6, K = 2;
  const at::Tensor scores = test::normal({B * S, E}, "scores").sigmoid();
  double expected = 0;
  for (int64_t b = 0; b < B; ++b) {
    std::vector<double> f(E, 0), P(E, 0);
    for (int64_t t = 0; t < S; ++t) {
      std::vector<double> row;
      double sum = 0;
      for (int64_t e = 0; e < E; ++e) row.push_back(scores[b * S + t][e].item<double>()), sum += row.back();
      for (int64_t e = 0; e < E; ++e) {
        const auto better =
            std::count_if(row.begin(), row.end(), [&](double s) { return s > row[static_cast<size_t>(e)]; });
        f[static_cast<size_t>(e)] += better < K ? double(E) / (K * S) : 0;
        P[static_cast<size_t>(e)] += row[static_cast<size_t>(e)] / sum / S;
      }
    }
    for (size_t e = 0; e < E; ++e) expected += f[e] * P[e];
  }
  for (const kernels::Isa isa : test::bodies()) {
    const ForcedIsa forced(isa);
    EXPECT_NEAR(sequence_balance_loss(scores, B, K).item<double>(), expected, 1e-5) << kernels::name(isa);
  }
  EXPECT_NEAR(sequence_balance_loss(scores.to(at::kDouble), B, K).item<double>(), expected, 1e-9);
}

}  // namespace
}  // namespace fathom::ops

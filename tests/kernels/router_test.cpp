#include "kernels/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/support.h"

namespace fathom::kernels::testing {
namespace {

struct Outputs {
  std::vector<int32_t> indices;
  std::vector<float> weights, scores;
};

Outputs run(RouterForwardParams p) {
  Outputs out;
  out.indices.assign(static_cast<std::size_t>(p.num_tokens * p.num_choices), -1);
  out.weights.resize(out.indices.size());
  out.scores.resize(static_cast<std::size_t>(p.num_tokens * p.num_experts));
  p.indices = out.indices.data(), p.weights = out.weights.data(), p.scores = out.scores.data();
  router_forward(p);
  return out;
}

float logit(double p) { return static_cast<float>(std::log(p / (1 - p))); }

TEST(Router, NUM_2_bias_steers_the_choice_only) {
  const std::vector<float> logits = {logit(.9), logit(.7), logit(.5), logit(.3)}, bias = {-.5f, 0, .3f, .1f};
  for (Isa set : all_sets()) {
    RouterForwardParams p;
    p.num_tokens = 1, p.num_experts = 4, p.num_choices = 2, p.scale = 2.5;
    p.logits = logits.data(), p.bias = bias.data();
    const Outputs out = under(set, [&] { return run(p); });
    EXPECT_EQ(out.indices, (std::vector<int32_t>{2, 1}));
    EXPECT_NEAR(out.weights[0], 1.041667, 1e-6);
    EXPECT_NEAR(out.weights[1], 1.458333, 1e-6);
    EXPECT_NEAR(out.scores[0], .9, 1e-6);
  }
}

// The same in the plainest way: sorting by (score, index), groups that are not kept removed.
std::vector<int32_t> sorted_choice(const RouterForwardParams& p, const float* scores) {
  const int64_t size = p.num_experts / p.num_groups;
  std::vector<float> choice(scores, scores + p.num_experts);
  for (int64_t e = 0; e < p.num_experts && p.bias; ++e) choice[e] += p.bias[e];
  std::vector<float> group(static_cast<std::size_t>(p.num_groups));
  for (int64_t g = 0; g < p.num_groups; ++g) {
    std::vector<float> members(choice.begin() + g * size, choice.begin() + (g + 1) * size);
    std::sort(members.rbegin(), members.rend());
    group[g] = p.group_score == GroupScore::maximum || size == 1 ? members[0] : members[0] + members[1];
  }
  const auto order = [](const std::vector<float>& values) {
    std::vector<int32_t> index(values.size());
    std::iota(index.begin(), index.end(), 0);
    std::stable_sort(index.begin(), index.end(), [&](int32_t a, int32_t b) { return values[a] > values[b]; });
    return index;
  };
  const std::vector<int32_t> groups = order(group);
  std::vector<int32_t> chosen;
  for (int32_t e : order(choice)) {
    const bool kept =
        std::find(groups.begin(), groups.begin() + p.topk_groups, e / size) != groups.begin() + p.topk_groups;
    if (kept && static_cast<int64_t>(chosen.size()) < p.num_choices) chosen.push_back(e);
  }
  return chosen;
}

TEST(Router, group_limited_choice_with_negative_biased_scores_and_ties) {
  struct Case {
    int64_t experts, choices, groups, kept;
    Scoring scoring;
    GroupScore how;
    float bias_shift;
  };
  for (const Case& c :
       {Case{256, 8, 8, 4, Scoring::sigmoid, GroupScore::top2_sum, 0},
        Case{256, 8, 8, 4, Scoring::sigmoid, GroupScore::top2_sum, -3},  // all biased scores negative
        Case{64, 6, 1, 1, Scoring::softmax, GroupScore::maximum, 0},
        Case{160, 6, 8, 3, Scoring::softmax, GroupScore::maximum, -1},
        Case{8, 8, 4, 4, Scoring::sigmoid, GroupScore::top2_sum, 0},
        Case{9, 3, 9, 3, Scoring::sigmoid, GroupScore::top2_sum, 0},
        Case{1, 1, 1, 1, Scoring::softmax, GroupScore::maximum, 0}}) {
    for (int64_t tokens : {0, 1, 40}) {
      std::vector<float> logits = random_values<float>(tokens * c.experts, 1);
      for (std::size_t i = 0; i < logits.size() / 2; ++i)
        logits[i] = std::round(logits[i]);  // ties in the first rows
      std::vector<float> bias = random_values<float>(c.experts, 2, 0.1, 0);
      for (std::size_t e = 0; e < bias.size(); ++e) bias[e] = (e % 3 ? bias[e] : 0) + c.bias_shift;
      for (Isa set : all_sets()) {
        RouterForwardParams p;
        p.num_tokens = tokens, p.num_experts = c.experts, p.num_choices = c.choices, p.num_groups = c.groups;
        p.topk_groups = c.kept, p.scoring = c.scoring, p.group_score = c.how, p.scale = 2.5;
        p.logits = logits.data(), p.bias = bias.data();
        const Outputs out = under(set, [&] { return run(p); });
        const Outputs reference = under(Isa::reference, [&] { return run(p); });
        // Rounding z - max, of size up to 64, moves a softmax by as many eps.
        const double eps = (c.scoring == Scoring::softmax ? 12 + 64 : 12) * kEpsF32;
        EXPECT_TRUE(close(out.scores, reference.scores, Bound{eps, 1e-38, 1}, name(set)));
        for (int64_t t = 0; t < tokens; ++t) {
          const float* scores = out.scores.data() + t * c.experts;
          const std::vector<int32_t> chosen(out.indices.begin() + t * c.choices,
                                            out.indices.begin() + (t + 1) * c.choices);
          EXPECT_EQ(chosen, sorted_choice(p, scores));
          double sum = 1e-20;
          for (int32_t e : chosen) sum += scores[e];
          for (int64_t k = 0; k < c.choices; ++k)
            EXPECT_NEAR(out.weights[t * c.choices + k], 2.5 * scores[chosen[k]] / sum, 4e-6);
        }
      }
    }
  }
}

TEST(Router, masked_groups_lose_even_to_negative_scores) {
  // Group 0 wins by its sum although all is negative; expert 2 of group 1 would win if masked scores were 0.
  const std::vector<float> logits(4, 0), bias = {-2, -2, -3, -9};
  RouterForwardParams p;
  p.num_tokens = 1, p.num_experts = 4, p.num_choices = 2, p.num_groups = 2, p.topk_groups = 1;
  p.logits = logits.data(), p.bias = bias.data();
  EXPECT_EQ(run(p).indices, (std::vector<int32_t>{0, 1}));
}

TEST(Router, NaN_ranks_last_and_indices_stay_valid) {
  for (Isa set : fast_sets()) {
    std::vector<float> logits = {NAN, 1, NAN, 2, NAN, NAN, NAN, NAN};
    RouterForwardParams p;
    p.num_tokens = 2, p.num_experts = 4, p.num_choices = 3;
    p.logits = logits.data();
    const Outputs out = under(set, [&] { return run(p); });
    EXPECT_EQ(out.indices, (std::vector<int32_t>{3, 1, 0, 0, 1, 2}));
    EXPECT_TRUE(std::isnan(out.weights[2]));
  }
}

TEST(Router, backward_is_the_derivative) {
  const int64_t experts = 6, choices = 3;
  for (Scoring scoring : {Scoring::sigmoid, Scoring::softmax}) {
    for (bool normalise : {false, true}) {
      const std::vector<float> logits = random_values<float>(experts, 1, 1, 0),
                               dweights = random_values<float>(choices, 2, 1, 0);
      const std::vector<float> dscores = random_values<float>(experts, 3, 1, 0);
      RouterForwardParams p;
      p.num_tokens = 1, p.num_experts = experts, p.num_choices = choices, p.scoring = scoring,
      p.normalise = normalise;
      p.scale = 2.5, p.logits = logits.data();
      const Outputs out = under(Isa::reference, [&] { return run(p); });
      std::vector<float> dlogits(experts);
      RouterBackwardParams b;
      b.num_tokens = 1, b.num_experts = experts, b.num_choices = choices, b.scoring = scoring,
      b.normalise = normalise;
      b.scale = 2.5, b.scores = out.scores.data(), b.indices = out.indices.data(),
      b.dweights = dweights.data();
      b.dscores = dscores.data(), b.dlogits = dlogits.data();
      router_backward(b);
      // The loss in double, with the choice held.
      const auto loss = [&](int64_t moved, double shift) {
        std::vector<double> scores(experts);
        double total = 0, sum = 1e-20, value = 0;
        for (int64_t e = 0; e < experts; ++e) {
          const double z = logits[e] + (e == moved ? shift : 0);
          scores[e] = scoring == Scoring::sigmoid ? 1 / (1 + std::exp(-z)) : std::exp(z);
          total += scores[e];
        }
        for (double& s : scores) s /= scoring == Scoring::softmax ? total : 1;
        for (int32_t e : out.indices) sum += scores[e];
        for (int64_t k = 0; k < choices; ++k)
          value += dweights[k] * 2.5 * scores[out.indices[k]] / (normalise ? sum : 1);
        for (int64_t e = 0; e < experts; ++e) value += dscores[e] * scores[e];
        return value;
      };
      for (int64_t e = 0; e < experts; ++e)
        EXPECT_NEAR(dlogits[e], (loss(e, 1e-5) - loss(e, -1e-5)) / 2e-5, 2e-6)
            << int(scoring) << normalise << e;
    }
  }
}

}  // namespace
}  // namespace fathom::kernels::testing

#include "infer/sampler.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <set>

namespace fathom::infer {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

int32_t choose(const SamplingParams& params, const std::vector<float>& logits, uint64_t seed = 1,
               const std::vector<int32_t>& output = {}, const std::vector<int32_t>& prompt = {}) {
  return Sampler(params, seed).choose(logits, prompt, output).token_id;
}

// How often each token comes in `draws` places of one request.
std::vector<int64_t> histogram(const SamplingParams& params, const std::vector<float>& logits, int64_t draws,
                               uint64_t seed) {
  std::vector<int64_t> counts(logits.size());
  Sampler sampler(params, seed);
  std::vector<int32_t> output;
  for (int64_t i = 0; i < draws; ++i) {
    output.push_back(sampler.choose(logits, {}, output).token_id);
    ++counts[static_cast<size_t>(output.back())];
  }
  return counts;
}

double chi_square(const std::vector<int64_t>& counts, const std::vector<double>& probabilities) {
  int64_t total = 0;
  for (const int64_t count : counts) total += count;
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = probabilities[i] * static_cast<double>(total);
    if (expected == 0)
      EXPECT_EQ(counts[i], 0) << "token " << i << " was filtered out";
    else
      sum += std::pow(static_cast<double>(counts[i]) - expected, 2) / expected;
  }
  return sum;
}

std::vector<float> log_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)) + 3.0f);
  return logits;
}

// 0.999 quantile of chi-square with 1, 2 and 3 degrees of freedom; seeds are fixed, so a pass stays a pass.
constexpr std::array<double, 4> kChiSquareLimit = {0, 10.83, 13.82, 16.27};

TEST(Sampler, greedy_takes_the_largest_and_ties_go_to_the_lower_id) {
  EXPECT_EQ(choose({}, {0, 5, 2, 5}), 1);
  EXPECT_EQ(choose({}, {-3}), 0);
  EXPECT_EQ(choose({}, {-kInf, -7, -kInf}), 1);
  EXPECT_EQ(choose({.temperature = 0, .top_k = 3, .top_p = 0.5}, {0, 5, 2, 5}), 1);
}

TEST(Sampler, INF_10_draws_follow_the_distribution) {
  const std::vector<double> p = {0.5, 0.25, 0.15, 0.1};
  for (const uint64_t seed : {1, 2, 3})
    EXPECT_LT(chi_square(histogram({.temperature = 1}, log_of(p), 4000, seed), p), kChiSquareLimit[3]);
}

TEST(Sampler, INF_10_temperature_flattens) {
  const std::vector<double> p = {0.5, 0.25, 0.15, 0.1};
  std::vector<double> flat;
  double sum = 0;
  for (const double x : p) sum += std::pow(x, 1 / 1.5);
  for (const double x : p) flat.push_back(std::pow(x, 1 / 1.5) / sum);
  const auto counts = histogram({.temperature = 1.5}, log_of(p), 8000, 5);
  EXPECT_LT(chi_square(counts, flat), kChiSquareLimit[3]);
  EXPECT_GT(chi_square(counts, p), 50) << "temperature had no effect";
}

TEST(Sampler, filters_keep_what_they_say_and_renormalise) {
  const std::vector<double> p = {0.1, 0.5, 0.15, 0.25};
  const auto test = [&](const SamplingParams& params, const std::vector<double>& kept, size_t freedom) {
    EXPECT_LT(chi_square(histogram(params, log_of(p), 4000, 11), kept), kChiSquareLimit[freedom]);
  };
  test({.temperature = 1, .top_k = 2}, {0, 2.0 / 3, 0, 1.0 / 3}, 1);
  test({.temperature = 1, .top_k = 9}, p, 3);
  test({.temperature = 1, .top_p = 0.7}, {0, 2.0 / 3, 0, 1.0 / 3}, 1);
  test({.temperature = 1, .top_p = 0.8}, {0, 5.0 / 9, 1.5 / 9, 2.5 / 9}, 2);
  test({.temperature = 1, .min_p = 0.45}, {0, 2.0 / 3, 0, 1.0 / 3}, 1);
  // top_p looks at what top_k left: 0.5 of 0.75 is less than 0.7, so both stay
  test({.temperature = 1, .top_k = 2, .top_p = 0.7}, {0, 2.0 / 3, 0, 1.0 / 3}, 1);
}

TEST(Sampler, INF_10_extreme_filters_equal_greedy) {
  const std::vector<float> logits = {0.1f, 2.0f, 1.9f, 2.0f, -1};
  for (uint64_t seed = 0; seed < 50; ++seed) {
    EXPECT_EQ(choose({.temperature = 1.5, .top_p = 0.01}, logits, seed), 1);
    EXPECT_EQ(choose({.temperature = 1.5, .top_k = 1}, logits, seed), 1);
    EXPECT_EQ(choose({.temperature = 1e-12}, {0, 1, 3, 2}, seed), 2);
    EXPECT_EQ(choose({.temperature = 1e300, .min_p = 1}, {0, -kInf, -kInf, -kInf}, seed), 0);
  }
}

TEST(Sampler, INF_10_seeds) {
  const std::vector<float> logits(100, 0.0f);
  const SamplingParams params = {.temperature = 1.5};
  EXPECT_EQ(histogram(params, logits, 30, 7), histogram(params, logits, 30, 7));
  EXPECT_NE(histogram(params, logits, 30, 7), histogram(params, logits, 30, 8));
  // A draw depends on its number alone: another sampler in between, or a fresh one, changes nothing.
  Sampler whole(params, 7);
  std::vector<int32_t> output;
  for (int i = 0; i < 10; ++i) {
    const int32_t token = whole.choose(logits, {}, output).token_id;
    EXPECT_EQ(choose(params, logits, 7, output), token);
    output.push_back(token);
  }
  EXPECT_GT(std::set<int32_t>(output.begin(), output.end()).size(), 1u);
}

TEST(Sampler, logprobs_are_those_of_the_unmodified_distribution) {
  const std::vector<double> p = {0.1, 0.5, 0.15, 0.25};
  Sampler sampler({.temperature = 0.3, .top_k = 1, .presence_penalty = 100, .logprobs = 3}, 1);
  const Sampler::Choice choice = sampler.choose(log_of(p), {}, std::vector<int32_t>{1});
  EXPECT_EQ(choice.token_id, 3) << "the presence penalty counts";
  EXPECT_NEAR(choice.logprob, std::log(0.25), 1e-6);
  ASSERT_EQ(choice.top.size(), 3u);
  EXPECT_EQ(choice.top[0].token_id, 1);
  EXPECT_NEAR(choice.top[0].logprob, std::log(0.5), 1e-6);
  EXPECT_EQ(choice.top[1].token_id, 3);
  EXPECT_EQ(choice.top[2].token_id, 2);
}

TEST(Sampler, penalties) {
  // positive logits are divided, negative ones multiplied; the prompt counts for repetition only
  EXPECT_EQ(choose({.repetition_penalty = 2}, {4, 3}, 1, {}, {0}), 1);
  EXPECT_EQ(choose({.repetition_penalty = 2}, {-1, -1.5f}, 1, {0}), 1);
  EXPECT_EQ(choose({.presence_penalty = 2}, {4, 3}, 1, {}, {0}), 0);
  EXPECT_EQ(choose({.presence_penalty = 2}, {4, 3}, 1, {0, 0}), 1);
  EXPECT_EQ(choose({.presence_penalty = 0.6}, {4, 3}, 1, {0, 0}), 0) << "presence does not count occurrences";
  EXPECT_EQ(choose({.frequency_penalty = 0.6}, {4, 3}, 1, {0}), 0);
  EXPECT_EQ(choose({.frequency_penalty = 0.6}, {4, 3}, 1, {0, 0}), 1);
  // beyond the range of a float: some token comes out, nothing breaks
  EXPECT_EQ(choose({.temperature = 1, .presence_penalty = -1e300}, {4, 3}, 1, {1}), 1);
  EXPECT_EQ(choose({.temperature = 1, .presence_penalty = 1e300}, {4}, 1, {0}), 0);
}

TEST(Sampler, rows_without_a_choice_are_errors) {
  const auto fault = [](const std::vector<float>& logits, double temperature) {
    try {
      choose({.temperature = temperature}, logits);
    } catch (const RequestError& e) {
      return e.fault();
    }
    return RequestFault::invalid;
  };
  for (const double temperature : {0.0, 1.0}) {
    EXPECT_EQ(fault({0, kNaN, 1}, temperature), RequestFault::numeric);
    EXPECT_EQ(fault({0, kInf}, temperature), RequestFault::numeric);
    EXPECT_EQ(fault({-kInf, -kInf}, temperature), RequestFault::numeric);
    EXPECT_EQ(fault({}, temperature), RequestFault::numeric);
  }
}

TEST(Sampler, parameters_out_of_range_are_named) {
  const auto message = [](const SamplingParams& params) -> std::string {
    try {
      check_sampling_params(params, 10);
    } catch (const RequestError& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message({}), "accepted");
  EXPECT_EQ(message({.temperature = 2, .top_k = 1000, .top_p = 1, .min_p = 1}), "accepted");
  EXPECT_NE(message({.temperature = -1}).find("temperature is -1"), std::string::npos);
  EXPECT_NE(message({.temperature = kNaN}).find("temperature"), std::string::npos);
  EXPECT_NE(message({.top_k = -1}).find("top_k"), std::string::npos);
  EXPECT_NE(message({.top_p = 0}).find("top_p"), std::string::npos);
  EXPECT_NE(message({.top_p = 1.01}).find("top_p"), std::string::npos);
  EXPECT_NE(message({.min_p = kNaN}).find("min_p"), std::string::npos);
  EXPECT_NE(message({.repetition_penalty = 0}).find("repetition_penalty"), std::string::npos);
  EXPECT_NE(message({.max_new_tokens = -5}).find("max_new_tokens"), std::string::npos);
  EXPECT_NE(message({.stop_token_ids = {3, 10}}).find("10"), std::string::npos);
}

}  // namespace
}  // namespace fathom::infer

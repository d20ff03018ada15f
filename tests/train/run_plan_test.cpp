#include "train/run_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace fathom::train {
namespace {

config::Recipe recipe(int64_t seq_length) {
  config::Recipe recipe;
  recipe.file = "r.yaml";
  recipe.data.seq_length = seq_length;
  recipe.train.global_batch_size = config::ScheduledValue(4);
  return recipe;
}

config::ScheduledValue growing() {
  config::ScheduledValue value;
  value.pieces = {{100, 2}, {300, 4}, {std::numeric_limits<int64_t>::max(), 8}};
  return value;
}

TEST(RunPlan, by_steps) {
  config::Recipe r = recipe(10);
  r.train.steps = 7;
  EXPECT_EQ(plan_run(r, 0).total_steps, 7);
  EXPECT_EQ(plan_run(r, 0).total_samples, 28);
}

TEST(RunPlan, by_tokens_the_last_step_reaches_the_number) {
  config::Recipe r = recipe(10);
  for (const auto& [tokens, steps] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {40, 1}, {41, 2}, {400, 10}}) {
    r.train.tokens = tokens;
    EXPECT_EQ(plan_run(r, 0).total_steps, steps) << tokens;
  }
}

TEST(RunPlan, by_epochs) {
  config::Recipe r = recipe(10);
  r.train.epochs = 2;
  EXPECT_EQ(plan_run(r, 10).total_steps, 5);
  r.train.epochs = 0.5;
  EXPECT_EQ(plan_run(r, 10).total_steps, 2);  // 5 samples: 4, then the step that reaches them
  r.train.epochs = 0.01;
  EXPECT_THROW(plan_run(r, 10), ConfigError);  // not one sample
}

TEST(RunPlan, nothing_to_do_is_an_error) {
  EXPECT_THAT([] { plan_run(recipe(10), 0); },
              testing::ThrowsMessage<ConfigError>(testing::HasSubstr("r.yaml")));
}

TEST(RunPlan, a_batch_size_that_grows_with_the_tokens) {
  config::Recipe r = recipe(10);
  r.train.global_batch_size = growing();
  r.train.steps = 12;
  // 2 sequences while under 100 tokens (5 steps), 4 while under 300 (5 steps), then 8
  EXPECT_EQ(plan_run(r, 0).total_samples, 5 * 2 + 5 * 4 + 2 * 8);
  int64_t tokens = 0;
  std::vector<int64_t> sizes;
  for (int step = 0; step < 12; ++step) {
    sizes.push_back(global_batch_size(r, tokens));
    tokens += sizes.back() * 10;
  }
  EXPECT_EQ(sizes, (std::vector<int64_t>{2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 8, 8}));
  r.train.steps = 0;
  r.train.tokens = tokens;
  EXPECT_EQ(plan_run(r, 0).total_steps, 12);
}

}  // namespace
}  // namespace fathom::train

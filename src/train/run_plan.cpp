#include "train/run_plan.h"

#include <cmath>

#include "base/error.h"

namespace fathom::train {

int64_t global_batch_size(const config::Recipe& recipe, int64_t consumed_tokens) {
  return std::llround(recipe.train.global_batch_size.at(consumed_tokens));
}

RunPlan plan_run(const config::Recipe& recipe, int64_t samples_per_epoch) {
  const config::TrainSection& train = recipe.train;
  const int64_t sample_tokens = recipe.data.seq_length;
  int64_t tokens = train.tokens;
  if (train.epochs > 0)
    tokens = static_cast<int64_t>(std::llround(train.epochs * static_cast<double>(samples_per_epoch))) *
             sample_tokens;
  RunPlan plan;
  // The last step by tokens or epochs is the one that reaches the number.
  while (train.steps > 0 ? plan.total_steps < train.steps : plan.total_samples * sample_tokens < tokens) {
    plan.total_samples += global_batch_size(recipe, plan.total_samples * sample_tokens);
    ++plan.total_steps;
  }
  if (plan.total_steps == 0)
    throw ConfigError("{}: the run has no steps: give train.steps, train.tokens or train.epochs",
                      recipe.file.string());
  return plan;
}

}  // namespace fathom::train

// How long a run is and what each step consumes, from the recipe: pure functions of it.
#pragma once

#include <cstdint>

#include "config/recipe.h"

namespace fathom::train {

struct RunPlan {
  int64_t total_steps = 0;
  int64_t total_samples = 0;  // sequences over all steps
};

// `samples_per_epoch` is asked for only where the recipe gives epochs.
RunPlan plan_run(const config::Recipe& recipe, int64_t samples_per_epoch);

// Sequences of the step that begins when `consumed_tokens` tokens have been trained.
int64_t global_batch_size(const config::Recipe& recipe, int64_t consumed_tokens);

}  // namespace fathom::train

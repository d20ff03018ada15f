// The held-out loss during training: the same function that `fathom eval --data` computes on a checkpoint.
#pragma once

#include <cstdint>

#include "data/training_data.h"
#include "parallel/world.h"
#include "train/pipeline.h"

namespace fathom::train {

struct Evaluation {
  double nll_sum = 0;
  int64_t num_targets = 0;
  double loss() const { return num_targets > 0 ? nll_sum / static_cast<double>(num_targets) : 0; }
};

// Main loss over the first `num_batches` micro-batches of the data (0: all of it), without gradients; micro-batches go
// round the data ranks, whose sums are added.
Evaluation evaluate(Pipeline& pipeline, const data::TrainingData& data, int64_t micro_batch_size,
                    int64_t num_batches, parallel::World& world);

}  // namespace fathom::train

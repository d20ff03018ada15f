// The micro-batches of one optimizer step, and the counts that normalise its losses: every loss is a sum over the
// step's targets divided by their global number, never a mean of means (NUM-8).
#pragma once

#include <cstdint>
#include <vector>

#include "data/training_data.h"
#include "model/micro_batch.h"
#include "parallel/communicator.h"

namespace fathom::train {

struct StepBatch {
  std::vector<model::MicroBatch> micro_batches;  // this rank's; the counts below are of all ranks
  int64_t most_micro_batches = 0;                // of any rank
  int64_t num_sequences = 0;
  int64_t num_tokens = 0;                // positions: sequences * seq_length
  int64_t num_targets = 0;               // trained by the main loss
  std::vector<int64_t> num_mtp_targets;  // per depth
};

// Samples [first, first + num_sequences) of the data, cut into micro-batches (the last may be smaller) that go round the
// ranks of `data_ranks`: micro-batch i to place i modulo their number. The counts are summed over these ranks.
StepBatch make_step_batch(const data::TrainingData& data, int64_t first, int64_t num_sequences,
                          int64_t micro_batch_size, int64_t num_nextn_predict_layers,
                          parallel::Communicator& data_ranks);

// Samples [first, first + count) as one micro-batch.
model::MicroBatch make_micro_batch(const data::TrainingData& data, int64_t first, int64_t count,
                                   int64_t num_nextn_predict_layers);

// Factors of the losses' sums: main 1/targets, MTP weight/(D * targets of the depth), balance alpha/sequences.
model::LossCoefficients loss_coefficients(const StepBatch& batch, double mtp_loss_weight,
                                          double sequence_aux_loss, double z_loss);

}  // namespace fathom::train

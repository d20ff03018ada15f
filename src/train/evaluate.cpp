#include "train/evaluate.h"

#include <algorithm>
#include <span>

#include "model/micro_batch.h"
#include "ops/vocab_loss.h"
#include "train/step_batch.h"

namespace fathom::train {

Evaluation evaluate(Pipeline& pipeline, const data::TrainingData& data, int64_t micro_batch_size,
                    int64_t num_batches, parallel::World& world) {
  Evaluation result;
  const int64_t samples =
      num_batches > 0 ? std::min(data.size(), num_batches * micro_batch_size) : data.size();
  parallel::Communicator& data_ranks = world.along(parallel::Dimension::data);
  const int64_t round = data_ranks.size() * micro_batch_size;
  for (int64_t begin = 0; begin < samples; begin += round) {
    // A rank that has no sample left takes part in the others' collectives all the same.
    const int64_t first = begin + data_ranks.place() * micro_batch_size;
    const bool has_samples = first < samples;
    model::MicroBatch micro = make_micro_batch(
        data, has_samples ? first : begin, has_samples ? std::min(micro_batch_size, samples - first) : 1, 0);
    if (!has_samples) micro.targets.fill_(ops::kIgnoreTarget);
    const ops::VocabLoss loss = pipeline.evaluate(micro);
    result.nll_sum += loss.nll_sum;
    result.num_targets += loss.num_targets;
  }
  for (const parallel::Dimension dimension : {parallel::Dimension::data, parallel::Dimension::pipeline}) {
    world.along(dimension).all_reduce(std::span(&result.nll_sum, 1));
    world.along(dimension).all_reduce(std::span(&result.num_targets, 1));
  }
  return result;
}

}  // namespace fathom::train

#include "train/evaluate.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <span>

#include "ops/vocab_loss.h"
#include "train/step_batch.h"

namespace fathom::train {

Evaluation evaluate(model::DeepseekModel& model, const data::TrainingData& data, int64_t micro_batch_size,
                    int64_t num_batches, parallel::Communicator& data_ranks) {
  at::NoGradGuard no_grad;
  Evaluation result;
  const int64_t samples =
      num_batches > 0 ? std::min(data.size(), num_batches * micro_batch_size) : data.size();
  for (int64_t first = data_ranks.place() * micro_batch_size; first < samples;
       first += data_ranks.size() * micro_batch_size) {
    const model::MicroBatch micro =
        make_micro_batch(data, first, std::min(micro_batch_size, samples - first), 0);
    const ops::VocabLoss loss = ops::vocab_loss(model.hidden(micro), model.head(), micro.targets, 1.0);
    result.nll_sum += loss.nll_sum;
    result.num_targets += loss.num_targets;
  }
  data_ranks.all_reduce(std::span(&result.nll_sum, 1));
  data_ranks.all_reduce(std::span(&result.num_targets, 1));
  return result;
}

}  // namespace fathom::train

#include "train/evaluate.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "ops/vocab_loss.h"
#include "train/step_batch.h"

namespace fathom::train {

Evaluation evaluate(model::DeepseekModel& model, const data::TrainingData& data, int64_t micro_batch_size,
                    int64_t num_batches) {
  at::NoGradGuard no_grad;
  Evaluation result;
  const int64_t samples =
      num_batches > 0 ? std::min(data.size(), num_batches * micro_batch_size) : data.size();
  for (int64_t first = 0; first < samples; first += micro_batch_size) {
    const StepBatch batch =
        make_step_batch(data, first, std::min(micro_batch_size, samples - first), micro_batch_size, 0);
    const model::MicroBatch& micro = batch.micro_batches.front();
    const ops::VocabLoss loss = ops::vocab_loss(model.hidden(micro), model.head(), micro.targets, 1.0);
    result.nll_sum += loss.nll_sum;
    result.num_targets += loss.num_targets;
  }
  return result;
}

}  // namespace fathom::train

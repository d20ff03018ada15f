#include "train/step_batch.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <span>

#include "ops/vocab_loss.h"

namespace fathom::train {
namespace {

int64_t count_targets(const at::Tensor& targets) {
  return targets.ne(ops::kIgnoreTarget).sum().item<int64_t>();
}

model::Window to_window(data::Sample sample) {
  model::Window window;
  window.loss_mask.reserve(sample.loss_mask.size());
  for (const float weight : sample.loss_mask) window.loss_mask.push_back(weight != 0);
  window.tokens = std::move(sample.tokens);
  window.position_ids = std::move(sample.position_ids);
  window.document_starts = std::move(sample.document_starts);
  return window;
}

}  // namespace

model::MicroBatch make_micro_batch(const data::TrainingData& data, int64_t first, int64_t count,
                                   int64_t num_nextn_predict_layers) {
  std::vector<model::Window> windows;
  for (int64_t i = 0; i < count; ++i) windows.push_back(to_window(data.sample(first + i)));
  return model::make_micro_batch(windows, num_nextn_predict_layers);
}

StepBatch make_step_batch(const data::TrainingData& data, int64_t first, int64_t num_sequences,
                          int64_t micro_batch_size, int64_t num_nextn_predict_layers,
                          parallel::Communicator& data_ranks) {
  StepBatch step;
  const int64_t micro_batches = (num_sequences + micro_batch_size - 1) / micro_batch_size;
  step.most_micro_batches = (micro_batches + data_ranks.size() - 1) / data_ranks.size();
  step.num_mtp_targets.assign(static_cast<size_t>(num_nextn_predict_layers), 0);
  for (int64_t begin = data_ranks.place() * micro_batch_size; begin < num_sequences;
       begin += data_ranks.size() * micro_batch_size) {
    const model::MicroBatch& micro = step.micro_batches.emplace_back(make_micro_batch(
        data, first + begin, std::min(micro_batch_size, num_sequences - begin), num_nextn_predict_layers));
    step.num_sequences += micro.num_sequences;
    step.num_tokens += micro.tokens.numel();
    step.num_targets += count_targets(micro.targets);
    for (size_t d = 0; d < step.num_mtp_targets.size(); ++d)
      step.num_mtp_targets[d] += count_targets(micro.mtp_targets[d]);
  }
  std::vector<int64_t> counts = {step.num_sequences, step.num_tokens, step.num_targets};
  counts.insert(counts.end(), step.num_mtp_targets.begin(), step.num_mtp_targets.end());
  data_ranks.all_reduce(std::span(counts));
  step.num_sequences = counts[0];
  step.num_tokens = counts[1];
  step.num_targets = counts[2];
  std::copy(counts.begin() + 3, counts.end(), step.num_mtp_targets.begin());
  return step;
}

model::LossCoefficients loss_coefficients(const StepBatch& batch, double mtp_loss_weight,
                                          double sequence_aux_loss, double z_loss) {
  model::LossCoefficients c;
  c.main = 1.0 / static_cast<double>(std::max<int64_t>(1, batch.num_targets));
  if (mtp_loss_weight != 0) {
    const auto depths = static_cast<double>(batch.num_mtp_targets.size());
    for (const int64_t targets : batch.num_mtp_targets)
      c.mtp.push_back(mtp_loss_weight / (depths * static_cast<double>(std::max<int64_t>(1, targets))));
  }
  c.balance = sequence_aux_loss / static_cast<double>(std::max<int64_t>(1, batch.num_sequences));
  c.z_loss = z_loss;
  return c;
}

}  // namespace fathom::train

#include "eval/perplexity.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "base/error.h"
#include "base/progress.h"
#include "base/stop_signal.h"
#include "data/training_data.h"
#include "ops/vocab_loss.h"

namespace fathom::eval {
namespace {

void check_seq_length(int64_t seq_length, int64_t window) {
  if (seq_length < 1 || seq_length > window)
    throw UsageError("--seq-length {} does not fit: the model's max_position_embeddings is {}", seq_length,
                     window);
}

}  // namespace

Perplexity perplexity_of_windows(model::DeepseekModel& model, int64_t count,
                                 const std::function<model::Window(int64_t)>& window) {
  at::NoGradGuard no_grad;
  Perplexity result;
  Progress progress("evaluating", 0, "tokens");
  for (int64_t i = 0; i < count && !stop_requested(); ++i) {
    const model::MicroBatch batch = model::make_micro_batch({window(i)}, 0);
    const ops::VocabLoss loss = ops::vocab_loss(model.hidden(batch), model.head(), batch.targets, 1.0);
    result.nll_sum += loss.nll_sum;
    result.tokens += loss.num_targets;
    progress.advance(static_cast<uint64_t>(loss.num_targets));
  }
  progress.finish();
  return result;
}

Perplexity perplexity_of_tokens(model::DeepseekModel& model, const std::vector<int32_t>& ids,
                                int64_t seq_length) {
  const config::ModelConfig& config = model.registry().model();
  check_seq_length(seq_length, config.max_position_embeddings);
  const auto length = static_cast<int64_t>(ids.size());
  if (length < 2) throw DataError("the text has {} tokens: it takes two to predict one", length);
  for (int64_t i = 0; i < length; ++i)
    if (ids[static_cast<size_t>(i)] < 0 || ids[static_cast<size_t>(i)] >= config.vocab_size)
      throw DataError(
          "token {} of the text is {}: the model's vocabulary ends at {}; is the tokenizer another model's?",
          i, ids[static_cast<size_t>(i)], config.vocab_size - 1);
  return perplexity_of_windows(model, (length - 1 + seq_length - 1) / seq_length, [&](int64_t i) {
    const auto begin = ids.begin() + i * seq_length;
    model::Window window;
    window.tokens.assign(begin, begin + std::min(seq_length + 1, length - i * seq_length));
    return window;
  });
}

Perplexity perplexity_of_dataset(model::DeepseekModel& model, const std::filesystem::path& prefix,
                                 int64_t seq_length) {
  const config::ModelConfig& config = model.registry().model();
  check_seq_length(seq_length, config.max_position_embeddings);
  config::DataSection section;
  section.valid = {{prefix, 1.0}};
  section.seq_length = seq_length;
  const data::TrainingData dataset(section, data::Split::valid, 0, 0, -1, config.vocab_size);
  return perplexity_of_windows(model, dataset.size(), [&](int64_t i) {
    model::Window window;
    window.tokens = dataset.sample(i).tokens;
    return window;
  });
}

}  // namespace fathom::eval

#include "eval/perplexity.h"

#include <ATen/core/grad_mode.h>

#include "base/progress.h"
#include "base/stop_signal.h"
#include "ops/vocab_loss.h"

namespace fathom::eval {

Perplexity perplexity_of_windows(model::DeepseekModel& model, int64_t count,
                                 const std::function<model::Window(int64_t)>& window) {
  return perplexity_of_states(
      model.head(), count, window,
      [&model](int64_t /*i*/, const model::MicroBatch& batch) { return model.hidden(batch); });
}

Perplexity perplexity_of_states(ops::Weight& head, int64_t count,
                                const std::function<model::Window(int64_t)>& window,
                                const std::function<at::Tensor(int64_t, const model::MicroBatch&)>& hidden) {
  at::NoGradGuard no_grad;
  Perplexity result;
  Progress progress("evaluating", 0, "tokens");
  for (int64_t i = 0; i < count && !stop_requested(); ++i) {
    const model::MicroBatch batch = model::make_micro_batch({window(i)}, 0);
    const ops::VocabLoss loss = ops::vocab_loss(hidden(i, batch), head, batch.targets, 1.0);
    result.nll_sum += loss.nll_sum;
    result.tokens += loss.num_targets;
    progress.advance(static_cast<uint64_t>(loss.num_targets));
  }
  progress.finish();
  return result;
}

Perplexity perplexity_of_tokens(model::DeepseekModel& model, const std::vector<int32_t>& ids,
                                int64_t seq_length) {
  const Windows windows = windows_of_tokens(model.registry().model(), ids, seq_length);
  return perplexity_of_windows(model, windows.count, windows.at);
}

}  // namespace fathom::eval

// Perplexity of a model on text or on a dataset: exp of the mean negative log-probability of each next token.
// The windows and their loss are the trainer's (evaluation of a recipe), so the numbers can be compared.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "eval/windows.h"
#include "model/deepseek.h"
#include "model/micro_batch.h"

namespace fathom::eval {

struct Perplexity {
  int64_t tokens = 0;  // predicted tokens
  double nll_sum = 0;  // natural log
  double nll() const { return tokens > 0 ? nll_sum / static_cast<double>(tokens) : 0; }
  double perplexity() const { return std::exp(nll()); }
};

// Sums over windows 0 .. count-1, each for itself (no context crosses a window), no gradients. Stops early,
// whole windows only, when the process is asked to (base/stop_signal.h).
Perplexity perplexity_of_windows(model::DeepseekModel& model, int64_t count,
                                 const std::function<model::Window(int64_t)>& window);

// The same where `hidden(i, batch)` gives window i's states behind the final norm, [T, D], from somewhere else than a
// whole model in memory; `head` is lm_head.weight.
Perplexity perplexity_of_states(ops::Weight& head, int64_t count,
                                const std::function<model::Window(int64_t)>& window,
                                const std::function<at::Tensor(int64_t, const model::MicroBatch&)>& hidden);

// The same over windows_of_tokens(ids); throws as that.
Perplexity perplexity_of_tokens(model::DeepseekModel& model, const std::vector<int32_t>& ids,
                                int64_t seq_length);

}  // namespace fathom::eval

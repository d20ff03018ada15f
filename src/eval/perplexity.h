// Perplexity of a model on text or on a dataset: exp of the mean negative log-probability of each next token.
// The windows and their loss are the trainer's (evaluation of a recipe), so the numbers can be compared.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

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

// Windows of seq_length inputs laid end to end over `ids`: window i predicts ids[i*L+1 .. i*L+L] from
// ids[i*L] on, so each token but the first is predicted once; the last window may be shorter. No BOS is put
// in front of a window. Throws DataError: fewer than two ids, an id outside the vocabulary; UsageError:
// seq_length outside the model's window.
Perplexity perplexity_of_tokens(model::DeepseekModel& model, const std::vector<int32_t>& ids,
                                int64_t seq_length);

// The windows that a recipe evaluates with `valid: [{path: prefix}]`: every whole window of the dataset once.
// Throws FileError, DataError; UsageError as above.
Perplexity perplexity_of_dataset(model::DeepseekModel& model, const std::filesystem::path& prefix,
                                 int64_t seq_length);

}  // namespace fathom::eval

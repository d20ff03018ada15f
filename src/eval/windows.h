// What an evaluation reads: windows of tokens cut from a text or taken from a dataset, each for itself (no
// context crosses a window).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "config/model_config.h"
#include "model/micro_batch.h"

namespace fathom::eval {

struct Windows {
  int64_t count = 0;
  std::function<model::Window(int64_t)> at;  // 0 .. count-1; holds what it reads from
};

// Windows of seq_length inputs laid end to end over `ids`: window i predicts ids[i*L+1 .. i*L+L] from
// ids[i*L] on, so each token but the first is predicted once; the last window may be shorter. No BOS is put
// in front of a window. Throws DataError: fewer than two ids, an id outside the vocabulary; UsageError:
// seq_length outside the model's window.
Windows windows_of_tokens(const config::ModelConfig& config, std::vector<int32_t> ids, int64_t seq_length);

// The windows that a recipe evaluates with `valid: [{path: prefix}]`: every whole window of the dataset once.
// Throws FileError, DataError; UsageError as above.
Windows windows_of_dataset(const config::ModelConfig& config, const std::filesystem::path& prefix,
                           int64_t seq_length);

}  // namespace fathom::eval

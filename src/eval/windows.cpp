#include "eval/windows.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/error.h"
#include "data/training_data.h"

namespace fathom::eval {
namespace {

void check_seq_length(int64_t seq_length, int64_t window) {
  if (seq_length < 1 || seq_length > window)
    throw UsageError("--seq-length {} does not fit: the model's max_position_embeddings is {}", seq_length,
                     window);
}

}  // namespace

Windows windows_of_tokens(const config::ModelConfig& config, std::vector<int32_t> ids, int64_t seq_length) {
  check_seq_length(seq_length, config.max_position_embeddings);
  const auto length = static_cast<int64_t>(ids.size());
  if (length < 2) throw DataError("the text has {} tokens: it takes two to predict one", length);
  for (int64_t i = 0; i < length; ++i)
    if (ids[static_cast<size_t>(i)] < 0 || ids[static_cast<size_t>(i)] >= config.vocab_size)
      throw DataError(
          "token {} of the text is {}: the model's vocabulary ends at {}; is the tokenizer another model's?",
          i, ids[static_cast<size_t>(i)], config.vocab_size - 1);
  return {(length - 1 + seq_length - 1) / seq_length, [ids = std::move(ids), length, seq_length](int64_t i) {
            const auto begin = ids.begin() + i * seq_length;
            model::Window window;
            window.tokens.assign(begin, begin + std::min(seq_length + 1, length - i * seq_length));
            return window;
          }};
}

Windows windows_of_dataset(const config::ModelConfig& config, const std::filesystem::path& prefix,
                           int64_t seq_length) {
  check_seq_length(seq_length, config.max_position_embeddings);
  config::DataSection section;
  section.valid = {{prefix, 1.0}};
  section.seq_length = seq_length;
  const auto dataset = std::make_shared<const data::TrainingData>(section, data::Split::valid, 0,
                                                                  data::kHeldOutSeed, -1, config.vocab_size);
  return {dataset->size(), [dataset](int64_t i) {
            model::Window window;
            window.tokens = dataset->sample(i).tokens;
            return window;
          }};
}

}  // namespace fathom::eval

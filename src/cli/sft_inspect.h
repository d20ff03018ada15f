// Fine-tuning data and MindRecord files for people to look at: text, ids and loss mask of each token.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "tokenizer/tokenizer.h"

namespace fathom::cli {

struct LookAt {
  std::string path;
  int64_t sample = -1;  // -1: none
  int64_t count = 1;
  bool json = false;
};

// Rows as training sees them, padding included. With `json` one object: the facts; rows_shown: [{index, ids,
// loss_mask and position_ids per token, document_starts, length (without padding), trained_tokens, tokens, text}];
// sample: the first of them.
void inspect_sft(const LookAt& look, const std::optional<tokenizer::Tokenizer>& tokenizer);
// rows_shown: [{index, values: {column: value}, text of input_ids}]; bytes as hex.
void inspect_mindrecord(const LookAt& look, const std::optional<tokenizer::Tokenizer>& tokenizer);

}  // namespace fathom::cli

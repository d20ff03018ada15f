// From token ids to the text a reader sees as it comes: whole characters only, no special tokens, no stop
// strings.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "infer/stop_strings.h"
#include "tokenizer/tokenizer.h"

namespace fathom::infer {

class TextStream {
 public:
  // Without a tokenizer every text is empty. Throws RequestError(invalid): stop strings without a tokenizer,
  // or bad ones.
  TextStream(const tokenizer::Tokenizer* tokenizer, const std::vector<std::string>& stop);

  std::string push(int32_t token_id);
  std::string finish();  // the rest; half a character becomes U+FFFD
  bool is_stopped() const { return stop_.is_stopped(); }

 private:
  std::optional<tokenizer::DecodeStream> decode_;
  StopStrings stop_;
};

}  // namespace fathom::infer

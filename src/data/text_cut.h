// Where a long document may be cut so that the ids of its parts, joined, are the ids of the whole.
// Candidates are places where the pre-tokenisers of this family always end a piece: behind a line end before
// something that is no white space, before a space between letters, between letters and digits, before Chinese
// punctuation. Pre-tokenisers look no further back than the start of a piece, so text around a candidate shows
// whether it is one: the kibibyte before and the one after must give the same ids apart as together. What is not
// shown so is not cut.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace fathom::data {

class TextCutter {
 public:
  TextCutter(const tokenizer::Tokenizer& tokenizer, tokenizer::SpecialTokens special)
      : tokenizer_(tokenizer), special_(special) {}

  // The last good place in the second half of `text` (which may end inside a character); 0: none found.
  size_t find(std::string_view text);

 private:
  bool holds(std::string_view text, size_t at);
  const tokenizer::Tokenizer& tokenizer_;
  tokenizer::SpecialTokens special_;
  tokenizer::EncodeScratch scratch_;
  std::vector<int32_t> whole_, parts_;
};

}  // namespace fathom::data

// The regular expressions that stand in the Split pre-tokenizers of this family, with the meaning Oniguruma
// (the engine of HF tokenizers) gives them: leftmost match, first alternative, greedy loops with
// backtracking. Understood: literals; escapes \r \n \t \f \v \s \S \p{..} \P{..} \uXXXX \x{..} and escaped
// punctuation; sets
// [...] with ranges, properties, negation, nesting and && ; groups (?:...) and (?i:...) of plain words;
// lookahead
// (?=...) (?!...); ? * + {m} {m,} {m,n} on a single character or set, ? on a group; $ as the last thing.
// Everything else is refused by name with its position; nothing is approximated.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/unicode.h"

namespace fathom::tokenizer {

class Regex {
 public:
  // `where` names the place (file and key) in messages. Throws ConfigError: syntax not understood, or a
  // pattern that can match the empty string.
  Regex(std::string_view pattern, const std::string& where);
  static Regex literal(std::string_view text, const std::string& where);

  // The first match in [from, end) of well-formed UTF-8. Looks at nothing outside the range. False: no match.
  bool find(const char* from, const char* end, const char*& match_begin, const char*& match_end) const;
  const std::string& pattern() const { return pattern_; }

 private:
  enum class Op : uint8_t { loop, split, jump, look, line_end, match };
  struct Instruction {
    Op op;
    bool negative = false;      // look: (?!
    uint32_t set = 0;           // loop
    uint32_t min = 1, max = 1;  // loop; max == kUnbounded
    uint32_t first = 0;         // split: tried first; jump: target; look: where to go on
    uint32_t second = 0;        // split: tried second
  };
  static constexpr uint32_t kUnbounded = 0xFFFFFFFF;

  Regex() = default;
  friend class RegexParser;
  const char* run(uint32_t at, const char* p, const char* end) const;  // end of the match or null

  std::string pattern_;
  std::vector<CodePointSet> sets_;
  std::vector<Instruction> program_;
  CodePointSet first_characters_;  // a match starts with one of these
  bool leading_run_ = false;       // the program starts with a greedy unbounded loop
};

}  // namespace fathom::tokenizer

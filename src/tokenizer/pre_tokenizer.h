// Cutting text into the pieces inside which BPE merges: the Split, Digits and ByteLevel steps of
// tokenizer.json. Steps apply one after the other to every piece of the step before (behaviour "Isolated":
// what matches and what lies between matches both become pieces). The three patterns of DeepSeek-V3 are
// recognised by their text and run as one hand-written pass; any other known pattern goes through Regex. Both
// give the same pieces.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "tokenizer/regex.h"
#include "tokenizer/split_v3.h"

namespace fathom::tokenizer {

// The alternatives of Kimi's pattern in their order, from tokenization_kimi.py.
extern const char* const kKimiPatterns[8];

class PreTokenizer {
 public:
  // `json` is the value of pre_tokenizer. Throws ConfigError naming the step that is not supported.
  static PreTokenizer from_json(const Json& json, const std::string& where);
  // The one pattern of Kimi-K2 and Moonlight, whose tiktoken.model does not name it. Every character is part of some
  // match, so that it makes no difference that tiktoken leaves out what lies between matches.
  static PreTokenizer kimi();

  bool is_v3() const { return is_v3_; }
  // The name by which llama.cpp knows these steps: deepseek-v3, deepseek-llm (V2), kimi-k2 or gpt-2; empty: none.
  std::string_view scheme() const;
  void use_generic() { is_v3_ = false; }  // for tests that compare the two ways

  // Calls emit(std::string_view piece) for the pieces of well-formed UTF-8, in order; together they are the
  // text. `scratch` is working memory that may be kept between calls.
  struct Scratch {
    std::vector<uint32_t> ends, next_ends;
  };
  template <typename Emit>
  void split(std::string_view text, Scratch& scratch, Emit&& emit) const {
    if (is_v3_) {
      split_v3(text, emit);
      return;
    }
    // Offsets are 32 bit; longer text comes in chunks of whole documents long before that.
    split_generic(text, scratch);
    uint32_t begin = 0;
    for (const uint32_t end : scratch.ends) {
      emit(text.substr(begin, end - begin));
      begin = end;
    }
  }

 private:
  struct Step {
    enum class Kind : uint8_t { split, digits_individual, digits_runs } kind;
    Regex regex;  // split only
  };
  void add_step(const Json& json, const std::string& where);
  void split_generic(std::string_view text, Scratch& scratch) const;

  std::vector<Step> steps_;
  bool has_byte_level_ = false;
  bool is_v3_ = false;
};

}  // namespace fathom::tokenizer

// Added tokens: literal strings that become one id before any splitting. Matching is leftmost-longest, as
// HF's: first the tokens with normalized = false, then, in what lies between, those with normalized = true.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fathom::tokenizer {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;
  bool normalized = true;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space in front of it along
  bool rstrip = false;       // and behind it

  // A marker of the prompt format, whatever its `special` flag says: DeepSeek's own files mark <|User|> and
  // the tool tokens as not special. Written text may not produce these unless the caller asks.
  bool is_control() const {
    return special || (content.size() > 2 && content.front() == '<' && content.back() == '>');
  }
};

class AddedTokens {
 public:
  explicit AddedTokens(std::vector<AddedToken> tokens = {});
  const std::vector<AddedToken>& tokens() const { return tokens_; }

  struct Segment {
    uint32_t begin, end;
    int32_t id;  // -1: ordinary text
  };
  // Cuts well-formed UTF-8 into segments. with_control = false: control tokens are ordinary text.
  void split(std::string_view text, bool with_control, std::vector<Segment>& segments) const;

 private:
  struct Node {
    uint8_t byte = 0;
    int32_t token = -1;
    uint32_t child = 0, sibling = 0;  // 0: none
  };
  struct Trie {
    std::vector<Node> nodes = std::vector<Node>(1);
    bool has_text_token = false;  // any token that is not control
  };
  void insert(Trie& trie, int32_t token);
  void split_by(const Trie& trie, std::string_view text, uint32_t begin, uint32_t end, bool with_control,
                std::vector<Segment>& segments) const;

  std::vector<AddedToken> tokens_;
  Trie tries_[2];  // [normalized]
};

}  // namespace fathom::tokenizer

// A forward-only JSON reader for the large parts of tokenizer.json (a vocabulary of 128,000 entries and as
// many merges), where a document tree would cost more than everything else at start-up. Small parts are cut
// out with value_text() and go through base/json.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fathom::tokenizer {

class JsonReader {
 public:
  // `where` names the source in messages. Every call throws ConfigError with the byte offset on a syntax
  // error.
  JsonReader(std::string_view text, std::string where) : text_(text), where_(std::move(where)) {}

  // Usage: begin_object(); while (next_key(key)) { read or skip the value }. Same for arrays with
  // next_element().
  void begin_object();
  bool next_key(std::string_view& key);
  void begin_array();
  bool next_element();

  // The view lives until the next string is read (it points into the text where there are no escapes).
  std::string_view string();
  int64_t integer();
  std::string_view value_text();  // any value, skipped and returned as it stands
  void end();                     // nothing but white space may follow

  char peek();  // the first byte of the next value: { [ " or other
  size_t offset() const { return at_; }
  [[noreturn]] void fail(const std::string& what) const;  // ConfigError at the current offset

 private:
  void skip_space();
  void expect(char c);
  bool next_item(char close);
  void append_escape();

  std::string_view text_;
  std::string where_;
  size_t at_ = 0;
  bool first_ = false;  // no item of the innermost container has been read
  std::string buffer_;
};

}  // namespace fathom::tokenizer

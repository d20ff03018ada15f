#include "data/text_cut.h"

#include <algorithm>

#include "base/error.h"

namespace fathom::data {
namespace {

constexpr size_t kContextBytes = 1024;
constexpr int kMaxTrials = 64;

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

bool is_candidate(std::string_view text, size_t at) {
  const char before = text[at - 1], after = text[at];
  // What follows a line end must be no white space; outside ASCII letters of CJK are known to be none.
  if (before == '\n')
    return (after > 0x20 && after < 0x7F) ||
           (static_cast<unsigned char>(after) >= 0xE4 && static_cast<unsigned char>(after) <= 0xE9);
  if (after == ' ') return is_letter(before) && is_letter(text[at + 1]);
  if (is_letter(before)) return is_digit(after);
  const std::string_view next = text.substr(at, 3);
  return is_continuation(before) &&
         (next == "\xef\xbc\x8c" || next == "\xe3\x80\x82");  // the comma, the full stop
}

}  // namespace

size_t TextCutter::find(std::string_view text) {
  if (text.size() < 4 * kContextBytes) return 0;
  int trials = 0;
  for (size_t at = text.size() - kContextBytes; at > text.size() / 2; --at) {
    if (!is_candidate(text, at)) continue;
    if (holds(text, at)) return at;
    if (++trials == kMaxTrials) return 0;
  }
  return 0;
}

bool TextCutter::holds(std::string_view text, size_t at) {
  size_t begin = at - kContextBytes, end = std::min(at + kContextBytes, text.size());
  while (begin < at && is_continuation(text[begin])) ++begin;
  // At most three bytes back: to the start of the last character, which may be incomplete.
  for (int i = 0; i < 4 && end > at + 1 && (end == text.size() || is_continuation(text[end])); ++i) --end;
  try {
    whole_.clear();
    parts_.clear();
    tokenizer_.encode_into(text.substr(begin, end - begin), scratch_, whole_, special_);
    tokenizer_.encode_into(text.substr(begin, at - begin), scratch_, parts_, special_);
    tokenizer_.encode_into(text.substr(at, end - at), scratch_, parts_, special_);
  } catch (const DataError&) {
    return false;  // no UTF-8 here: whoever encodes the part says so
  }
  return whole_ == parts_;
}

}  // namespace fathom::data

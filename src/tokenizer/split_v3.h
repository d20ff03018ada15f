// The pre-tokenizer of DeepSeek-V3 in one pass. Its tokenizer.json has three Split steps:
//   1  \p{N}{1,3}
//   2  [U+4E00-U+9FA5 U+3040-U+309F U+30A0-U+30FF]+
//   3  [ASCII punctuation][A-Za-z]+ | [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+ | ' '?[\p{P}\p{S}]+[\r\n]*
//      | \s*[\r\n]+ | \s+(?!\S) | \s+
// Step 3 sees each piece of step 2 by itself: a number or a change between CJK and other text is an end of
// text to it.
#pragma once

#include <string_view>

#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace fathom::tokenizer {

extern const char* const kV3Patterns[3];

// A position in text with the class of its character; past the segment's end the class is 0 and at_end is
// set.
class V3Cursor {
 public:
  V3Cursor(const char* p, const char* end, const CharTable& table, bool cjk)
      : next_(p), end_(end), table_(&table), cjk_(cjk) {
    advance();
  }
  const char* position() const { return at_; }
  bool at_end() const { return at_end_; }
  uint8_t bits() const { return bits_; }
  bool is(uint8_t mask) const { return (bits_ & mask) != 0; }
  void advance() {
    at_ = next_;
    if (at_ == end_) return stop();
    const uint8_t bits = (*table_)[next_code_point(next_)];
    if ((bits & kNumber) != 0 || ((bits & kCjk) != 0) != cjk_) return stop();
    bits_ = bits;
  }
  void skip_while(uint8_t mask) {
    while (is(mask)) advance();
  }

 private:
  void stop() {
    next_ = at_;
    bits_ = 0;
    at_end_ = true;
  }
  const char* at_ = nullptr;
  const char* next_;
  const char* end_;
  const CharTable* table_;
  uint8_t bits_ = 0;
  bool cjk_, at_end_ = false;
};

// Moves `cursor` behind the match of step 3 that starts at it; false (and the cursor where it was) when none
// does.
inline bool match_v3(V3Cursor& cursor) {
  const char first = *cursor.position();
  V3Cursor ahead = cursor;
  ahead.advance();
  const bool is_punctuation = cursor.is(kPunctuationOrSymbol);
  if (is_punctuation && first >= 0x21 && ahead.is(kAsciiLetter)) {  // first >= 0x21: ASCII (char is signed)
    ahead.skip_while(kAsciiLetter);
    cursor = ahead;
    return true;
  }
  if (cursor.is(kLetterOrMark)) {
    ahead.skip_while(kLetterOrMark);
    cursor = ahead;
    return true;
  }
  if (!is_punctuation && !cursor.is(kLineEnd) && ahead.is(kLetterOrMark)) {
    ahead.skip_while(kLetterOrMark);
    cursor = ahead;
    return true;
  }
  if (is_punctuation || (first == ' ' && ahead.is(kPunctuationOrSymbol))) {
    ahead.skip_while(kPunctuationOrSymbol);
    ahead.skip_while(kLineEnd);
    cursor = ahead;
    return true;
  }
  if (!cursor.is(kSpace)) return false;
  // White space: up to its last line end; else all of it at the end; else all but its last character; else
  // all.
  V3Cursor last = cursor;      // the last character of the run
  V3Cursor line_end = cursor;  // behind the last line end of the run
  bool has_line_end = false, is_long = false;
  for (ahead = cursor; ahead.is(kSpace);) {
    is_long = ahead.position() != cursor.position();
    last = ahead;
    const bool ends_line = ahead.is(kLineEnd);
    ahead.advance();
    if (ends_line) {
      line_end = ahead;
      has_line_end = true;
    }
  }
  if (has_line_end)
    cursor = line_end;
  else if (ahead.at_end() || !is_long)
    cursor = ahead;
  else
    cursor = last;
  return true;
}

// Calls emit(std::string_view) for each piece of well-formed UTF-8.
template <typename Emit>
void split_v3(std::string_view text, Emit&& emit) {
  static_assert(static_cast<char>(0x80) < 0, "char is signed here");
  const CharTable& table = CharTable::get();
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p < end) {
    const char* next = p;
    const uint8_t bits = table[next_code_point(next)];
    if ((bits & kNumber) != 0) {
      // Numbers in threes from the start of their run; this loop is at the start of a run or behind a whole
      // three.
      for (int count = 1; count < 3 && next < end; ++count) {
        const char* after = next;
        if ((table[next_code_point(after)] & kNumber) == 0) break;
        next = after;
      }
      emit(std::string_view(p, static_cast<size_t>(next - p)));
      p = next;
      continue;
    }
    V3Cursor cursor(p, end, table, (bits & kCjk) != 0);
    while (!cursor.at_end()) {
      const char* const start = cursor.position();
      if (match_v3(cursor)) {
        emit(std::string_view(start, static_cast<size_t>(cursor.position() - start)));
        continue;
      }
      // Characters where no match starts (controls, unassigned) form one piece up to the next match.
      const char* gap_end;
      V3Cursor after_gap = cursor;
      do {
        cursor.advance();
        gap_end = cursor.position();
        after_gap = cursor;
      } while (!cursor.at_end() && !match_v3(after_gap));
      emit(std::string_view(start, static_cast<size_t>(gap_end - start)));
      if (after_gap.position() != gap_end) {
        emit(std::string_view(gap_end, static_cast<size_t>(after_gap.position() - gap_end)));
        cursor = after_gap;
      }
    }
    p = cursor.position();
  }
}

}  // namespace fathom::tokenizer

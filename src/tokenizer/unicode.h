// Unicode as HF tokenizers 0.23.3 sees it (general categories, scripts and spaces of its regular expressions,
// the digits of its Digits splitter, the word characters of its added-token matching). Tables:
// unicode_data.cpp, read out of the oracle by tools/make_unicode_tables.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace fathom::tokenizer {

constexpr uint32_t kMaxCodePoint = 0x10FFFF;

struct CodePointRange {
  uint32_t first, last;  // both inclusive
};

namespace unicode_data {
struct CategoryRange {
  uint32_t first, last;
  uint8_t category;  // index into CATEGORIES of tools/make_unicode_tables.py
};
extern const char* const kOracle;
extern const CategoryRange kCategories[];
extern const size_t kNumCategories;
extern const CodePointRange kWhiteSpace[], kHan[], kDigitsNumeric[], kWord[], kStripSpace[];
extern const size_t kNumWhiteSpace, kNumHan, kNumDigitsNumeric, kNumWord, kNumStripSpace;
}  // namespace unicode_data

// A set of code points: sorted ranges that neither touch nor overlap.
class CodePointSet {
 public:
  CodePointSet() = default;
  explicit CodePointSet(std::vector<CodePointRange> ranges);  // any order, overlaps allowed

  static CodePointSet all();
  // "L", "Lu", "N", "P", "S", "M", "Z", "C", "Han", ...: what \p{name} matches. False when the name is
  // unknown.
  static bool property(std::string_view name, CodePointSet& out);
  static const CodePointSet& white_space();     // \s
  static const CodePointSet& digits_numeric();  // what the Digits pre-tokenizer cuts out
  static const CodePointSet& word();            // what single_word tokens may not touch
  static const CodePointSet& strip_space();     // what lstrip and rstrip tokens take with them

  CodePointSet united(const CodePointSet& other) const;
  CodePointSet intersected(const CodePointSet& other) const;
  CodePointSet complement() const;  // over 0..0x10FFFF

  bool contains(uint32_t code_point) const {
    if (code_point < 128) return (ascii_[code_point >> 6] >> (code_point & 63)) & 1;
    if ((code_point >> 6) < plane_.size()) return (plane_[code_point >> 6] >> (code_point & 63)) & 1;
    return search(code_point);
  }
  // Spends 8 KiB so that contains() looks code points up to U+FFFF up instead of searching for them.
  void make_table();
  const std::vector<CodePointRange>& ranges() const { return ranges_; }

 private:
  bool search(uint32_t code_point) const;
  std::vector<CodePointRange> ranges_;
  std::array<uint64_t, 2> ascii_{};
  std::vector<uint64_t> plane_;  // empty, or a bit for each code point up to U+FFFF
};

// Bits of a code point that the DeepSeek-V3 splitter asks for.
enum CharBits : uint8_t {
  kLetterOrMark = 1,         // [\p{L}\p{M}]
  kLetter = 2,               // \p{L}
  kPunctuationOrSymbol = 4,  // [\p{P}\p{S}]
  kNumber = 8,               // \p{N}
  kSpace = 16,               // \s
  kCjk = 32,                 // the second pattern of V3: U+4E00-9FA5, U+3040-30FF
  kLineEnd = 64,             // \r \n
  kAsciiLetter = 128,        // [A-Za-z]
};

// Two-stage table code point -> CharBits, built once (about a millisecond).
class CharTable {
 public:
  static const CharTable& get();
  uint8_t operator[](uint32_t code_point) const {
    return blocks_[static_cast<size_t>(index_[code_point >> 8]) << 8 | (code_point & 255)];
  }

 private:
  CharTable();
  std::array<uint16_t, 0x1100> index_{};
  std::vector<uint8_t> blocks_;
};

}  // namespace fathom::tokenizer

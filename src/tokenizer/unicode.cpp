#include "tokenizer/unicode.h"

#include <algorithm>
#include <cstring>
#include <map>

namespace fathom::tokenizer {
namespace {

constexpr const char* kCategoryNames[] = {"Cn", "Cc", "Cf", "Co", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn",
                                          "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi",
                                          "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp"};

CodePointSet from_table(const CodePointRange* ranges, size_t count) {
  return CodePointSet(std::vector<CodePointRange>(ranges, ranges + count));
}

}  // namespace

CodePointSet::CodePointSet(std::vector<CodePointRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const CodePointRange& a, const CodePointRange& b) { return a.first < b.first; });
  for (const CodePointRange& range : ranges) {
    if (!ranges_.empty() && range.first <= ranges_.back().last + 1)
      ranges_.back().last = std::max(ranges_.back().last, range.last);
    else
      ranges_.push_back(range);
  }
  for (const CodePointRange& range : ranges_)
    for (uint32_t c = range.first; c <= range.last && c < 128; ++c) ascii_[c >> 6] |= uint64_t{1} << (c & 63);
}

void CodePointSet::make_table() {
  constexpr uint32_t kEnd = 0x10000;
  plane_.assign(kEnd / 64, 0);
  for (const CodePointRange& range : ranges_)
    for (uint32_t c = range.first; c <= range.last && c < kEnd; ++c)
      plane_[c >> 6] |= uint64_t{1} << (c & 63);
}

CodePointSet CodePointSet::all() { return CodePointSet({{0, kMaxCodePoint}}); }

bool CodePointSet::property(std::string_view name, CodePointSet& out) {
  if (name == "Han") {
    out = from_table(unicode_data::kHan, unicode_data::kNumHan);
    return true;
  }
  if (name.empty() || name.size() > 2) return false;
  std::vector<CodePointRange> ranges;
  bool known = false, unassigned = false;
  for (size_t i = 0; i < std::size(kCategoryNames); ++i) {
    if (std::string_view(kCategoryNames[i]).substr(0, name.size()) != name) continue;
    known = true;
    unassigned |= i == 0;
    for (size_t k = 0; k < unicode_data::kNumCategories; ++k) {
      const auto& range = unicode_data::kCategories[k];
      if (range.category == i) ranges.push_back({range.first, range.last});
    }
  }
  // Whether surrogates and unassigned code points count differs between engines; no pattern of this family
  // asks.
  if (!known || unassigned) return false;
  out = CodePointSet(std::move(ranges));
  return true;
}

const CodePointSet& CodePointSet::white_space() {
  static const CodePointSet set = from_table(unicode_data::kWhiteSpace, unicode_data::kNumWhiteSpace);
  return set;
}
const CodePointSet& CodePointSet::digits_numeric() {
  static const CodePointSet set = from_table(unicode_data::kDigitsNumeric, unicode_data::kNumDigitsNumeric);
  return set;
}
const CodePointSet& CodePointSet::word() {
  static const CodePointSet set = from_table(unicode_data::kWord, unicode_data::kNumWord);
  return set;
}
const CodePointSet& CodePointSet::strip_space() {
  static const CodePointSet set = from_table(unicode_data::kStripSpace, unicode_data::kNumStripSpace);
  return set;
}

CodePointSet CodePointSet::united(const CodePointSet& other) const {
  std::vector<CodePointRange> both = ranges_;
  both.insert(both.end(), other.ranges_.begin(), other.ranges_.end());
  return CodePointSet(std::move(both));
}

CodePointSet CodePointSet::intersected(const CodePointSet& other) const {
  return complement().united(other.complement()).complement();
}

CodePointSet CodePointSet::complement() const {
  std::vector<CodePointRange> gaps;
  uint32_t next = 0;
  for (const CodePointRange& range : ranges_) {
    if (range.first > next) gaps.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kMaxCodePoint) gaps.push_back({next, kMaxCodePoint});
  return CodePointSet(std::move(gaps));
}

bool CodePointSet::search(uint32_t code_point) const {
  const auto after =
      std::upper_bound(ranges_.begin(), ranges_.end(), code_point,
                       [](uint32_t c, const CodePointRange& range) { return c < range.first; });
  return after != ranges_.begin() && code_point <= (after - 1)->last;
}

const CharTable& CharTable::get() {
  static const CharTable table;
  return table;
}

CharTable::CharTable() {
  std::vector<uint8_t> bits(kMaxCodePoint + 1, 0);
  const auto mark = [&](uint32_t first, uint32_t last, int flag) {
    for (uint32_t c = first; c <= last; ++c) bits[c] |= static_cast<uint8_t>(flag);
  };
  for (size_t i = 0; i < unicode_data::kNumCategories; ++i) {
    const auto& range = unicode_data::kCategories[i];
    switch (kCategoryNames[range.category][0]) {
      case 'L':
        mark(range.first, range.last, kLetter | kLetterOrMark);
        break;
      case 'M':
        mark(range.first, range.last, kLetterOrMark);
        break;
      case 'P':
      case 'S':
        mark(range.first, range.last, kPunctuationOrSymbol);
        break;
      case 'N':
        mark(range.first, range.last, kNumber);
        break;
      default:
        break;
    }
  }
  for (const CodePointRange& range : CodePointSet::white_space().ranges())
    mark(range.first, range.last, kSpace);
  mark(0x4E00, 0x9FA5, kCjk);
  mark(0x3040, 0x30FF, kCjk);
  mark('\r', '\r', kLineEnd);
  mark('\n', '\n', kLineEnd);
  mark('A', 'Z', kAsciiLetter);
  mark('a', 'z', kAsciiLetter);

  std::map<std::string_view, uint16_t> seen;
  for (size_t block = 0; block < index_.size(); ++block) {
    const std::string_view content(reinterpret_cast<const char*>(bits.data()) + block * 256, 256);
    const auto [found, is_new] = seen.emplace(content, static_cast<uint16_t>(seen.size()));
    if (is_new) blocks_.insert(blocks_.end(), bits.begin() + block * 256, bits.begin() + block * 256 + 256);
    index_[block] = found->second;
  }
}

}  // namespace fathom::tokenizer

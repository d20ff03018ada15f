// All code points against the oracle's classes (fixture: tools/make_unicode_tables.py), and the pattern
// language.
#include "tokenizer/unicode.h"

#include <map>
#include <sstream>

#include "base/error.h"
#include "tokenizer/regex.h"
#include "tokenizer/test_support.h"
#include "tokenizer/utf8.h"

namespace fathom::tokenizer {
namespace {

TEST(Unicode, every_class_holds_the_oracles_code_points) {
  std::istringstream lines(read_text_file(data_dir() / "unicode_classes.txt"));
  size_t classes = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("#")) continue;
    std::istringstream fields(line);
    std::string name;
    size_t members = 0;
    uint64_t hash = 0;
    fields >> name >> members >> std::hex >> hash;
    CodePointSet set;
    const std::map<std::string, const CodePointSet*> named = {
        {"white_space", &CodePointSet::white_space()},
        {"digits_numeric", &CodePointSet::digits_numeric()},
        {"word", &CodePointSet::word()},
        {"strip_space", &CodePointSet::strip_space()}};
    const auto found_set = named.find(name);
    if (found_set != named.end()) {
      set = *found_set->second;
    } else {
      ASSERT_TRUE(CodePointSet::property(name == "han" ? "Han" : name, set)) << name;
    }
    size_t found = 0;
    uint64_t value = 0xCBF29CE484222325;
    for (uint32_t c = 0; c <= kMaxCodePoint; ++c) {
      if ((c >= 0xD800 && c < 0xE000) || !set.contains(c)) continue;
      ++found;
      value = (value ^ c) * 0x100000001B3;
    }
    EXPECT_EQ(found, members) << name;
    EXPECT_EQ(value, hash) << name;
    ++classes;
  }
  EXPECT_GE(classes, 39u);
}

TEST(Unicode, the_fast_table_agrees_with_the_sets) {
  const auto set = [](const char* name) {
    CodePointSet result;
    EXPECT_TRUE(CodePointSet::property(name, result));
    return result;
  };
  const CodePointSet letter = set("L"), mark = set("M"), number = set("N"), punctuation = set("P"),
                     symbol = set("S");
  const CharTable& table = CharTable::get();
  for (uint32_t c = 0; c <= kMaxCodePoint; ++c) {
    int bits = 0;
    if (letter.contains(c)) bits |= kLetter | kLetterOrMark;
    if (mark.contains(c)) bits |= kLetterOrMark;
    if (number.contains(c)) bits |= kNumber;
    if (punctuation.contains(c) || symbol.contains(c)) bits |= kPunctuationOrSymbol;
    if (CodePointSet::white_space().contains(c)) bits |= kSpace;
    if ((c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF)) bits |= kCjk;
    if (c == '\r' || c == '\n') bits |= kLineEnd;
    if (c < 128 && std::isalpha(static_cast<int>(c))) bits |= kAsciiLetter;
    ASSERT_EQ(table[c], bits) << std::hex << c;
  }
}

TEST(Unicode, set_algebra) {
  const CodePointSet a({{10, 20}, {15, 30}, {31, 40}, {100, 100}}), b({{40, 100}});
  EXPECT_EQ(a.ranges().size(), 2u);  // 10..40, 100
  EXPECT_TRUE(a.contains(31) && a.contains(100) && !a.contains(41));
  const CodePointSet both = a.intersected(b);
  EXPECT_EQ(both.ranges().size(), 2u);
  EXPECT_TRUE(both.contains(40) && both.contains(100) && !both.contains(39) && !both.contains(99));
  EXPECT_FALSE(a.complement().contains(10));
  EXPECT_TRUE(a.complement().contains(kMaxCodePoint));
  EXPECT_TRUE(CodePointSet::all().complement().ranges().empty());
  CodePointSet out;
  EXPECT_FALSE(CodePointSet::property("Greek", out));
  EXPECT_FALSE(CodePointSet::property("", out));
}

std::vector<std::string> matches(const char* pattern, const std::string& text) {
  const Regex regex(pattern, "test");
  std::vector<std::string> result;
  const char *begin, *end, *p = text.data();
  while (regex.find(p, text.data() + text.size(), begin, end)) {
    result.emplace_back(begin, end);
    p = end;
  }
  return result;
}

using Strings = std::vector<std::string>;

TEST(Regex, leftmost_first_alternative_with_backtracking) {
  EXPECT_EQ(matches("ab|a|abc", "abcaab"), (Strings{"ab", "a", "ab"}));
  EXPECT_EQ(matches("a*b", "aaabbac"), (Strings{"aaab", "b"}));
  EXPECT_EQ(matches("a*ab", "aaab"), (Strings{"aaab"}));
  EXPECT_EQ(matches("\\p{N}{1,3}", "1234567x89"), (Strings{"123", "456", "7", "89"}));
  EXPECT_EQ(matches("a{2}", "aaaaa"), (Strings{"aa", "aa"}));
  EXPECT_EQ(matches("a{2,}b?", "aaaabab"), (Strings{"aaaab"}));
  EXPECT_EQ(matches("\\s+(?!\\S)|\\s+", "a   b \n"), (Strings{"  ", " ", " \n"}));
  EXPECT_EQ(matches("x(?=y|z)", "xyxaxz"), (Strings{"x", "x"}));
  EXPECT_EQ(matches("\\s+$", "a  b  "), (Strings{"  "}));
  EXPECT_EQ(matches("a(?:b|c)?d", "adabdacdabcd"), (Strings{"ad", "abd", "acd"}));
  EXPECT_EQ(matches("(?i:'ll|'s)", "'LL'l'S'\u017F"), (Strings{"'LL", "'S", "'\u017F"}));
  EXPECT_EQ(matches("[\\p{L}&&[^\\p{Han}]]+", "ab\u4E2Dc"), (Strings{"ab", "c"}));
  EXPECT_EQ(matches("[^\\p{L}&&[a-z]]+", "ab1A"), (Strings{"1A"}));
  EXPECT_EQ(matches("[\\u4e00-\\x{9fa5}\\-\\]]+", "a\u4E00-]b"), (Strings{"\u4E00-]"}));
  EXPECT_EQ(matches("a", ""), Strings{});
}

TEST(Regex, what_it_does_not_know_is_refused_by_name) {
  const std::pair<const char*, const char*> cases[] = {{"(a)", "capturing group"},
                                                       {"(?<n>a)", "the group (?<n"},
                                                       {"a+?", "lazy"},
                                                       {"a++", "possessive"},
                                                       {"(?:ab)+", "repeated group"},
                                                       {"\\d+", "escape \\d"},
                                                       {"\\w", "escape \\w"},
                                                       {"\\bA", "escape \\b"},
                                                       {"\\1", "escape \\1"},
                                                       {".", "dot"},
                                                       {"^a", "anchor ^"},
                                                       {"a$b", "$ before the end"},
                                                       {"\\p{Greek}", "\\p{Greek}"},
                                                       {"[[:alpha:]]", "POSIX"},
                                                       {"[a", "not closed"},
                                                       {"(?:a", "not closed"},
                                                       {"a)", "closes nothing"},
                                                       {"a*", "empty string"},
                                                       {"a|", "empty string"},
                                                       {"(?=a)", "empty string"},
                                                       {"", "empty string"},
                                                       {"a{3,2}", "reversed"},
                                                       {"[z-a]", "reversed"},
                                                       {"*a", "repetition of nothing"},
                                                       {"a{99999}", "above 9999"},
                                                       {"(?i:[a])", "set inside (?i:"},
                                                       {"(?i:st)", "ligature"},
                                                       {"(?i:\u00E9)", "outside ASCII"},
                                                       {"a\\", "backslash"},
                                                       {"[]", "empty set"},
                                                       {"[a&&]", "right side"},
                                                       {"[\\p{L}-z]", "starts with a class"},
                                                       {"\\x41", "without braces"},
                                                       {"\xFF", "not UTF-8"},
                                                       {"\\p{Cn}", "\\p{Cn}"}};
  for (const auto& [pattern, part] : cases) {
    const std::string message = message_of<ConfigError>([p = pattern] { Regex(p, "the-place"); });
    EXPECT_NE(message.find(part), std::string::npos) << pattern << " -> " << message;
    EXPECT_NE(message.find("the-place"), std::string::npos) << message;
  }
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "(?:";
  EXPECT_THROW(Regex(deep, "deep"), ConfigError);
  deep.clear();
  for (int i = 0; i < 100000; ++i) deep += "[";
  EXPECT_THROW(Regex(deep, "deep"), ConfigError);
}

TEST(Utf8, invalid_sequences_are_found_at_every_position) {
  const std::string good = "ascii text \u00E9\u4E2D\U0001F600 end of it";
  EXPECT_EQ(find_invalid_utf8(good), std::string::npos);
  EXPECT_EQ(find_invalid_utf8(""), std::string::npos);
  for (size_t i = 0; i < 40; ++i) {
    std::string bad(i, 'x');
    bad += '\xFE';
    EXPECT_EQ(find_invalid_utf8(bad + "yyyyyyyyyy"), i);
    EXPECT_EQ(find_invalid_utf8(std::string(i, 'x') + "\xE4\xB8"), i);
  }
}

}  // namespace
}  // namespace fathom::tokenizer

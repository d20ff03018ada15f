#include "infer/stop_strings.h"

#include <gtest/gtest.h>

#include "infer/engine_api.h"
#include "infer/text_stream.h"
#include "support/byte_tokenizer.h"
#include "support/scratch.h"
#include "tokenizer/utf8.h"

namespace fathom::infer {
namespace {

// What is given out when `text` comes in pieces of `size` bytes.
std::string cut(const std::vector<std::string>& stop, const std::string& text, size_t size) {
  StopStrings strings(stop);
  std::string out;
  for (size_t i = 0; i < text.size(); i += size) out += strings.push(text.substr(i, size));
  return out + strings.finish();
}

TEST(StopStrings, API_1_stop_spans_pieces) {
  StopStrings strings({"XY"});
  EXPECT_EQ(strings.push("ab"), "ab");
  EXPECT_EQ(strings.push("X"), "") << "held back: Y might follow";
  EXPECT_EQ(strings.push("Y"), "");
  EXPECT_TRUE(strings.is_stopped());
  EXPECT_EQ(strings.push("c"), "");
  EXPECT_EQ(strings.finish(), "");
}

TEST(StopStrings, text_is_held_only_while_a_stop_may_complete) {
  StopStrings strings({"XYZ", "q"});
  EXPECT_EQ(strings.push("aXY"), "a");
  EXPECT_EQ(strings.push("X"), "XY");
  EXPECT_EQ(strings.push("b"), "Xb");
  EXPECT_EQ(strings.push("XY"), "");
  EXPECT_EQ(strings.finish(), "XY");
  EXPECT_FALSE(strings.is_stopped());
}

TEST(StopStrings, API_1_pieces_do_not_matter) {
  const std::string text = "aabaabaaab\nHuman: no\n\nHuman: yes";
  for (const std::vector<std::string>& stop : {std::vector<std::string>{},
                                               {"aaab"},
                                               {"abaaa", "baa"},
                                               {"aab", "b"},
                                               {"\n\nHuman:", "man: y"},
                                               {"zz"}}) {
    const std::string whole = cut(stop, text, text.size());
    for (size_t size = 1; size < text.size(); ++size) EXPECT_EQ(cut(stop, text, size), whole) << size;
  }
  EXPECT_EQ(cut({"aaab"}, text, 3), "aabaab");
  EXPECT_EQ(cut({"baa", "abaaa"}, text, 2), "aa") << "the one that is complete first";
  EXPECT_EQ(cut({"b", "aab"}, text, 2), "") << "of two that end together the longer";
  EXPECT_EQ(cut({}, text, 5), text);
}

TEST(StopStrings, bad_stop_strings_are_refused) {
  EXPECT_THROW(StopStrings({"a", ""}), RequestError);
  EXPECT_THROW(StopStrings({"\xc3"}), RequestError);
}

class TextStreamTest : public testing::Test {
 protected:
  TextStreamTest() { test::write_byte_tokenizer(scratch_.path()); }
  tokenizer::Tokenizer tokenizer() const { return tokenizer::Tokenizer::load(scratch_.path()); }
  test::ScratchDirectory scratch_;
};

TEST_F(TextStreamTest, API_1_stop_spans_tokens) {
  const tokenizer::Tokenizer bytes = tokenizer();
  TextStream stream(&bytes, {"XY"});
  std::string out;
  int pushed = 0;
  for (const char c : std::string("abXYc")) {
    out += stream.push(c + 2);
    ++pushed;
    if (stream.is_stopped()) break;
  }
  EXPECT_EQ(out + stream.finish(), "ab");
  EXPECT_EQ(pushed, 4);
}

TEST_F(TextStreamTest, no_half_characters_and_no_special_tokens) {
  const tokenizer::Tokenizer bytes = tokenizer();
  const std::string text = "h\xc3\xa9 \xe4\xbd\xa0\xf0\x9f\x98\x80!";
  TextStream stream(&bytes, {"\xe5\xa5\xbd"});  // never in the text
  std::string out = stream.push(0);
  for (const char c : text) {
    const std::string piece = stream.push(static_cast<unsigned char>(c) + 2);
    EXPECT_EQ(tokenizer::find_invalid_utf8(piece), std::string_view::npos);
    out += piece;
  }
  out += stream.push(1);
  out += stream.push(0xE4 + 2);  // a first byte alone
  EXPECT_EQ(out, text);
  EXPECT_EQ(stream.finish(), "\xef\xbf\xbd");
}

TEST(TextStream, without_a_tokenizer) {
  TextStream stream(nullptr, {});
  EXPECT_EQ(stream.push(5), "");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_THROW(TextStream(nullptr, {"x"}), RequestError);
}

}  // namespace
}  // namespace fathom::infer

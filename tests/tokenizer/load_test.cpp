// tokenizer.json files that are malformed, hostile or ask for what is not supported.
#include "base/error.h"
#include "tokenizer/json_reader.h"
#include "tokenizer/test_support.h"

namespace fathom::tokenizer {
namespace {

using Ids = std::vector<int32_t>;

// small.json with one value replaced.
std::string with(const char* pointer, const Json& value) {
  Json json = small_json();
  json[Json::json_pointer(pointer)] = value;
  return json.dump();
}

TEST(TokenizerLoad, unsupported_parts_are_refused_by_name) {
  const auto parse = [](const char* text) { return Json::parse(text); };
  const std::tuple<const char*, Json, const char*> cases[] = {
      {"/normalizer", parse(R"({"type": "NFC"})"), "normalizer \"NFC\""},
      {"/normalizer", parse(R"({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]})"),
       "\"Lowercase\""},
      {"/pre_tokenizer", nullptr, "needs a ByteLevel"},
      {"/pre_tokenizer", parse(R"({"type": "Whitespace"})"), "\"Whitespace\""},
      {"/pre_tokenizer", parse(R"({"type": "Digits", "individual_digits": true})"), "no ByteLevel"},
      {"/pre_tokenizer", parse(R"({"type": "ByteLevel", "add_prefix_space": true})"), "add_prefix_space"},
      {"/pre_tokenizer", parse(R"({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Removed"})"),
       "Removed"},
      {"/pre_tokenizer",
       parse(R"({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated", "invert": true})"),
       "invert"},
      {"/pre_tokenizer", parse(R"({"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "Isolated"})"),
       "\\w"},
      {"/pre_tokenizer", parse(R"({"type": "Split", "pattern": "a", "behavior": "Isolated"})"), "pattern"},
      {"/pre_tokenizer",
       parse(R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": false},
                                  {"type": "Digits"}]})"),
       "behind ByteLevel"},
      {"/post_processor", parse(R"({"type": "BertProcessing"})"), "BertProcessing"},
      {"/post_processor", parse(R"({"type": "TemplateProcessing", "single": []})"), "text itself is missing"},
      {"/post_processor",
       parse(R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}]})"),
       "special_tokens"},
      {"/decoder", nullptr, "decoder"},
      {"/decoder", parse(R"({"type": "Metaspace"})"), "Metaspace"},
      {"/model/type", "Unigram", "Unigram"},
      {"/model/dropout", 0.1, "model.dropout"},
      {"/model/end_of_word_suffix", "</w>", "end_of_word_suffix"},
      {"/model/merges/0", "one two three", "merges[0]"},
      {"/model/merges/0", parse(R"(["a"])"), "merges[0]"},
      {"/model/merges/0", parse(R"(["nosuch", "token"])"), "\"nosuch\""},
      {"/model/vocab/a", -1, "outside"},
      {"/model/vocab/a", 1 << 30, "outside"},
      {"/model/vocab/a", 7, "stands for both"},
      {"/added_tokens/0/id", 77, "disagrees"},
      {"/added_tokens/0/content", "", "empty"},
      {"/added_tokens/0/lstrip", "no", "lstrip"},
      {"/added_tokens/1/content", "<|bos|>", "disagrees"},
      {"/added_tokens", 5, "added_tokens"},
  };
  for (const auto& [pointer, value, part] : cases) {
    const std::string text = with(pointer, value);
    const std::string message = message_of<ConfigError>([&] { load_text(text); });
    EXPECT_NE(message.find(part), std::string::npos) << pointer << " -> " << message;
    EXPECT_NE(message.find("tokenizer.json"), std::string::npos) << message;
  }
}

TEST(TokenizerLoad, a_missing_byte_is_named) {
  Json json = small_json();
  json["model"]["vocab"].erase("\u0100");  // the byte 0
  json["model"]["merges"] = Json::array();
  EXPECT_NE(message_of<ConfigError>([&] { load_text(json.dump()); }).find("byte 0x00"), std::string::npos);
}

TEST(TokenizerLoad, bytes_outside_utf8_may_be_missing_and_come_back_as_added_tokens) {
  // DeepSeek-V2's vocabulary: the characters of the bytes 0xF8, 0xC0, ... are added tokens instead.
  Json json = small_json();
  json["model"]["vocab"].erase("\u00F8");
  json["added_tokens"].push_back(
      Json::parse(R"({"id": 600, "content": "\u00f8", "single_word": false, "lstrip": false,
                                                 "rstrip": false, "normalized": true, "special": false})"));
  const Tokenizer tokenizer = load_text(json.dump());
  const Ids ids = tokenizer.encode("s\u00F8t");
  EXPECT_EQ(ids[1], 600);
  EXPECT_EQ(tokenizer.decode(ids, false), "s\u00F8t");
}

TEST(TokenizerLoad, merges_as_strings_and_in_front_of_the_vocabulary) {
  Json json = small_json();
  const Ids expected = load_text(json.dump()).encode("the other thing");
  Json merges = Json::array();
  for (const Json& merge : json["model"]["merges"])
    merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  json["model"] = Json({{"merges", merges}, {"vocab", json["model"]["vocab"]}});
  EXPECT_EQ(load_text(json.dump()).encode("the other thing"), expected);
  EXPECT_EQ(load_text(json.dump(3, ' ', true)).encode("the other thing"), expected);  // everything escaped
}

TEST(TokenizerLoad, names_in_tokenizer_config) {
  const std::string text = small_json().dump();
  const Tokenizer plain = load_text(text);
  EXPECT_EQ(plain.bos_id(), std::nullopt);
  EXPECT_FALSE(plain.adds_bos());
  EXPECT_THROW(plain.encode("a", SpecialTokens::text, true), ConfigError);
  const Tokenizer named = load_text(text, R"({"bos_token": "<|bos|>", "eos_token": {"content": "<|eos|>"},
                                              "add_eos_token": true, "add_bos_token": null})");
  EXPECT_EQ(named.bos_id(), 0);
  EXPECT_EQ(named.eos_id(), 1);
  EXPECT_FALSE(named.adds_bos());
  const Ids ids = named.encode("a", SpecialTokens::text, true);
  ASSERT_EQ(ids.size(), 3u);
  EXPECT_EQ(ids.front(), 0);
  EXPECT_EQ(ids.back(), 1);
  EXPECT_NE(message_of<ConfigError>([&] { load_text(text, R"({"bos_token": "<nope>"})"); }).find("<nope>"),
            std::string::npos);
  EXPECT_THROW(load_text(text, R"({"bos_token": 5})"), ConfigError);
  EXPECT_THROW(load_text(text, "[]"), ConfigError);
}

TEST(TokenizerLoad, missing_files) {
  const TemporaryDirectory folder;
  EXPECT_NE(message_of<FileError>([&] { Tokenizer::load(folder.path()); }).find("no tokenizer.json"),
            std::string::npos);
  EXPECT_THROW(Tokenizer::load(folder.path() / "nothing.json"), FileError);
}

TEST(TokenizerLoad, truncated_and_damaged_files_end_in_an_error_or_a_tokenizer) {
  const std::string text = small_json().dump();
  for (size_t length = 0; length < text.size();
       length += length < 200 || length + 200 > text.size() ? 1 : 293)
    EXPECT_THROW(load_text(text.substr(0, length)), ConfigError) << length;
  uint64_t state = 1;
  for (int round = 0; round < 600; ++round) {
    std::string damaged = text;
    for (int i = 0; i < 3; ++i) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      damaged[(state >> 33) % damaged.size()] = static_cast<char>(state >> 25);
    }
    try {
      load_text(damaged).encode("some text 123 \u4E2D");
    } catch (const Error&) {
    }
  }
}

TEST(JsonReader, syntax_errors_carry_their_offset) {
  const auto walk = [](const std::string& text) {
    JsonReader reader(text, "here");
    std::string_view key;
    reader.begin_object();
    while (reader.next_key(key)) reader.value_text();
    reader.end();
  };
  EXPECT_NO_THROW(walk(R"( {"a": [1, {"b": "]"}], "c" : -1.5e3 , "d": "\"" } )"));
  for (const char* bad : {"", "[", "{", "{\"a\"", "{\"a\":", "{\"a\":}", "{\"a\":1,}", "{\"a\":1 \"b\":2}",
                          "{\"a\":[1}", "{} x", "{\"a\":\"\n\"}", "{a:1}", "{\"a\":,}"}) {
    // Bracket kinds are left to the parser of the slice.
    if (std::string(bad) == "{\"a\":[1}") continue;
    const std::string message = message_of<ConfigError>([&] { walk(bad); });
    EXPECT_NE(message.find("here: not valid JSON at byte"), std::string::npos) << bad << " -> " << message;
  }
  JsonReader strings(R"(["\u00e9\n\ud83d\ude00\/", "\ud83d", "\q"])", "here");
  strings.begin_array();
  ASSERT_TRUE(strings.next_element());
  EXPECT_EQ(strings.string(), "\u00E9\n\U0001F600/");
  ASSERT_TRUE(strings.next_element());
  EXPECT_THROW(strings.string(), ConfigError);
  for (const char* bad : {"1.5", "-", "99999999999999999999", "x", "1e3"})
    EXPECT_THROW(JsonReader(bad, "here").integer(), ConfigError) << bad;
  EXPECT_EQ(JsonReader(" -42 ", "here").integer(), -42);
  // Nesting is counted, not recursed into.
  EXPECT_NO_THROW(JsonReader(std::string(1000000, '[') + std::string(1000000, ']'), "deep").value_text());
}

}  // namespace
}  // namespace fathom::tokenizer

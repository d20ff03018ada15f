// tiktoken.model: goldens of the tiktoken package (make_tiktoken.py), and what is refused.
#include <gmock/gmock.h>

#include <map>

#include "base/error.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/test_support.h"

namespace fathom::tokenizer {
namespace {

using Ids = std::vector<int32_t>;

const fs::path kFolder = data_dir() / "kimi";

const Tokenizer& kimi() {
  static const Tokenizer tokenizer = Tokenizer::load(kFolder);
  return tokenizer;
}

// Loads a copy of the fixture with some files replaced; an empty text leaves the file out.
Tokenizer load_changed(const std::map<std::string, std::string>& files) {
  const TemporaryDirectory folder;
  for (const char* name : {"tiktoken.model", "tokenizer_config.json"})
    fs::copy(kFolder / name, folder.path());
  for (const auto& [name, text] : files) {
    if (text.empty())
      fs::remove(folder.path() / name);
    else
      std::ofstream(folder.path() / name) << text;
  }
  return Tokenizer::load(folder.path());
}

std::string fault_of_model(const std::string& text) {
  return message_of<ConfigError>([&] { load_changed({{"tiktoken.model", text}}); });
}

std::string fault_of_config(const std::string& decoder) {
  return message_of<ConfigError>([&] {
    load_changed({{"tokenizer_config.json", R"({"added_tokens_decoder": )" + decoder + "}"}});
  });
}

TEST(Tiktoken, ids_are_those_of_the_tiktoken_package) {
  const auto cases = read_json_lines(kFolder / "cases.jsonl");
  EXPECT_GE(cases.size(), 380u);
  EncodeScratch scratch;
  for (const Json& item : cases) {
    const auto text = item["text"].get<std::string>();
    const auto ids = item["ids"].get<Ids>();
    Ids found;
    kimi().encode_into(text, scratch, found);
    ASSERT_EQ(found, ids) << text.substr(0, 200);
    ASSERT_EQ(kimi().encode(text, SpecialTokens::encode), item["ids_special"].get<Ids>())
        << text.substr(0, 200);
    ASSERT_EQ(kimi().decode(ids, false), text);
  }
}

TEST(Tiktoken, special_tokens) {
  EXPECT_EQ(kimi().vocab_size(), 1756);
  EXPECT_EQ(kimi().bos_id(), 1500);
  EXPECT_EQ(kimi().eos_id(), 1501);
  EXPECT_FALSE(kimi().adds_bos());
  EXPECT_EQ(kimi().token_to_id("<|im_end|>"), 1502);
  EXPECT_EQ(kimi().token_to_id("<|reserved_token_1505|>"), 1505);  // the fifth has no name
  EXPECT_EQ(kimi().token_to_id("<|reserved_token_1756|>"), std::nullopt);
  EXPECT_TRUE(kimi().is_special(1505));
  EXPECT_FALSE(kimi().is_special(1511));  // "special": false
  EXPECT_TRUE(kimi().is_control(1511));
  EXPECT_EQ(kimi().encode("<|im_end|>", SpecialTokens::encode), Ids{1502});
  EXPECT_EQ(kimi().encode("a", SpecialTokens::text, true).front(), 1500);
  EXPECT_EQ(kimi().decode(Ids{1502, 65, 1755}, true), "A");
}

TEST(Tiktoken, tokenizer_json_comes_first_and_a_file_may_be_named) {
  EXPECT_EQ(Tokenizer::load(kFolder / "tiktoken.model").vocab_size(), 1756);
  const TemporaryDirectory folder;
  fs::copy(kFolder / "tiktoken.model", folder.path());
  std::ofstream(folder.path() / "tokenizer.json") << small_json().dump();
  EXPECT_EQ(Tokenizer::load(folder.path()).path().filename(), "tokenizer.json");
}

TEST(Tiktoken, a_damaged_model_file_is_refused_with_its_line) {
  const std::string good = read_text_file(kFolder / "tiktoken.model");
  EXPECT_THAT(fault_of_model("AA== 0\nAQ==\n"), ::testing::HasSubstr("line 2: there is no space"));
  EXPECT_THAT(fault_of_model("AA== 0\n\nA!== 1\n"), ::testing::HasSubstr("line 3: the token is not base64"));
  EXPECT_THAT(fault_of_model("AA 0\n"), ::testing::HasSubstr("line 1: the token is not base64"));
  EXPECT_THAT(fault_of_model(" 0\n"), ::testing::HasSubstr("not base64"));
  for (const char* rank : {"", "x", "1x", "-1", "99999999", "99999999999999999999", "1 2"})
    EXPECT_THAT(fault_of_model(std::string("AA== ") + rank + "\n"), ::testing::HasSubstr("line 1: the rank"))
        << rank;
  EXPECT_THAT(fault_of_model("\n\n"), ::testing::HasSubstr("no token in it"));
  EXPECT_THAT(fault_of_model("AA== 0\nAA== 1\n"), ::testing::HasSubstr("stands twice"));
  EXPECT_THAT(fault_of_model("AA== 0\nAQ== 0\n"), ::testing::HasSubstr("without a hole"));
  EXPECT_THAT(fault_of_model("AA== 1\n"), ::testing::HasSubstr("without a hole"));
  EXPECT_THAT(fault_of_model("AA== 0\n"), ::testing::HasSubstr("no token for the byte 0x01"));
  EXPECT_THAT(fault_of_model("{\"version\": 1}"), ::testing::HasSubstr("base64"));
  // Cut anywhere: an error or a tokenizer, and never more ids than lines.
  for (size_t size = 1; size < good.size(); size += 977) {
    try {
      load_changed({{"tiktoken.model", good.substr(0, size)}});
    } catch (const Error&) {
    }
  }
  std::string dos;
  for (const char c : good) dos += c == '\n' ? "\r\n" : std::string(1, c);
  EXPECT_EQ(load_changed({{"tiktoken.model", dos}}).vocab_size(), 1756);
}

TEST(Tiktoken, special_tokens_that_cannot_be_are_refused_by_key) {
  EXPECT_THAT(message_of<FileError>([] {
                load_changed({{"tokenizer_config.json", ""}});
              }),
              ::testing::HasSubstr("tokenizer_config.json is missing"));
  EXPECT_THAT(fault_of_config("[]"), ::testing::HasSubstr("added_tokens_decoder: expected an object"));
  for (const char* id : {"1499", "1756", "x", "", "-1", "1500 "})
    EXPECT_THAT(fault_of_config("{\"" + std::string(id) + R"(": {"content": "[X]"}})"),
                ::testing::HasSubstr("expected an id from 1500 to 1755"))
        << id;
  EXPECT_THAT(fault_of_config(R"({"1500": {"content": ""}})"), ::testing::HasSubstr("1500.content"));
  EXPECT_THAT(fault_of_config(R"({"1500": {"content": 3}})"), ::testing::HasSubstr("1500.content"));
  EXPECT_THAT(fault_of_config(R"({"1500": "[X]"})"), ::testing::HasSubstr("1500.content"));
  EXPECT_THAT(fault_of_config(R"({"1500": {"content": "[X]", "lstrip": true}})"),
              ::testing::HasSubstr("1500.lstrip: true is not supported"));
  EXPECT_THAT(fault_of_config(R"({"1500": {"content": "[X]"}, "1501": {"content": "[X]"}})"),
              ::testing::HasSubstr("stands twice"));
  EXPECT_THAT(
      message_of<ConfigError>([] {
        load_changed({{"tokenizer_config.json", R"({"added_tokens_decoder": {}, "bos_token": "[NO]"})"}});
      }),
      ::testing::HasSubstr("\"[NO]\" is not in tiktoken.model"));
}

// The model file does not say how text is cut; the Python file beside it does.
TEST(Tiktoken, another_pattern_is_refused_by_name) {
  std::string source = "class T:\n    pat_str = \"|\".join([\n";
  for (const char* const pattern : kKimiPatterns)
    source += "        r\"\"\"" + std::string(pattern) + "\"\"\",\n";
  EXPECT_EQ(load_changed({{"tokenization_kimi.py", source}}).vocab_size(), 1756);
  EXPECT_EQ(load_changed({{"modeling.py", "x = 1\n"}}).vocab_size(), 1756);
  std::string other = source;
  const std::string digits = R"(\p{N}{1,3})";
  other.replace(other.find(digits), digits.size(), R"(\p{N})");
  EXPECT_THAT(message_of<ConfigError>([&] {
                load_changed({{"tokenization_other.py", other}});
              }),
              ::testing::HasSubstr("tokenization_other.py: its pat_str lacks"));
}

}  // namespace
}  // namespace fathom::tokenizer

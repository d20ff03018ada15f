// A tokenizer spelled out holds what another program needs to cut text alike.
#include "tokenizer/listing.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/test_support.h"

namespace fathom::tokenizer {
namespace {

TEST(Listing, schemes_are_named_as_llama_cpp_names_them) {
  const std::map<std::string, std::string> expected = {
      {"v3", "deepseek-v3"}, {"v2", "deepseek-llm"}, {"kimi", "kimi-k2"}, {"coder", ""}, {"llama3", ""}};
  size_t found = 0;
  for (const Json& variant : read_json_lines(data_dir() / "variants.jsonl")) {
    const auto it = expected.find(variant["name"].get<std::string>());
    if (it == expected.end()) continue;
    ++found;
    EXPECT_EQ(PreTokenizer::from_json(variant["change"]["pre_tokenizer"], "test").scheme(), it->second)
        << variant["name"];
  }
  EXPECT_EQ(found, expected.size());
  const Json gpt2 = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  EXPECT_EQ(PreTokenizer::from_json(gpt2, "test").scheme(), "gpt-2");
  EXPECT_EQ(PreTokenizer::kimi().scheme(), "kimi-k2");
}

TEST(Listing, merges_of_a_tokenizer_json_come_in_its_order) {
  const TemporaryDirectory folder;
  std::ofstream(folder.path() / "tokenizer.json") << small_json().dump();
  const Listing listing = list_tokenizer(folder.path());
  const Json& merges = small_json()["model"]["merges"];
  ASSERT_EQ(listing.merges.size(), merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const auto spelled = [&](int32_t id) { return listing.tokens[static_cast<size_t>(id)].spelled; };
    const std::string left = spelled(listing.merges[i].first), right = spelled(listing.merges[i].second);
    ASSERT_EQ(merges[i].is_array() ? Json({left, right}) : Json(left + " " + right), merges[i]) << i;
  }
}

// tiktoken has ranks and no merges: those that are listed for it, in a tokenizer.json, must give its ids.
TEST(Listing, merges_of_a_tiktoken_model_give_its_ids) {
  const fs::path kimi = data_dir() / "kimi";
  const Listing listing = list_tokenizer(kimi);
  EXPECT_EQ(listing.scheme, "kimi-k2");
  EXPECT_FALSE(listing.adds_bos);
  EXPECT_EQ(listing.bos_id, 1500);
  EXPECT_EQ(listing.tokens[1505].kind, ListedToken::Kind::special);
  Json json = small_json();
  for (const Json& variant : read_json_lines(data_dir() / "variants.jsonl"))
    if (variant["name"] == "kimi") json["pre_tokenizer"] = variant["change"]["pre_tokenizer"];
  json["added_tokens"] = Json::array();
  json["post_processor"] = nullptr;
  Json &vocab = json["model"]["vocab"] = Json::object(), &merges = json["model"]["merges"] = Json::array();
  for (size_t id = 0; id < listing.tokens.size(); ++id)
    if (listing.tokens[id].kind == ListedToken::Kind::ordinary) vocab[listing.tokens[id].spelled] = id;
  for (const auto& [left, right] : listing.merges)
    merges.push_back({listing.tokens[static_cast<size_t>(left)].spelled,
                      listing.tokens[static_cast<size_t>(right)].spelled});
  EXPECT_EQ(listing.merges.size(), vocab.size() - 256);  // every token but the bytes has its merge
  const Tokenizer merged = load_text(json.dump()), ranked = Tokenizer::load(kimi);
  for (const Json& item : read_json_lines(kimi / "cases.jsonl")) {
    const auto text = item["text"].get<std::string>();
    ASSERT_EQ(merged.encode(text), ranked.encode(text)) << text;
  }
}

TEST(Listing, kinds_of_tokens) {
  const Listing listing = list_tokenizer(source_dir() / "assets/tokenizer");
  EXPECT_TRUE(listing.adds_bos);
  const auto kind = [&](const char* content) {
    return listing.tokens[static_cast<size_t>(v3().token_to_id(content).value())].kind;
  };
  EXPECT_EQ(kind("\xC4\xA0the"), ListedToken::Kind::ordinary);
  EXPECT_EQ(kind("<\xEF\xBD\x9CUser\xEF\xBD\x9C>"),
            ListedToken::Kind::special);  // not marked special, but a marker
}

}  // namespace
}  // namespace fathom::tokenizer

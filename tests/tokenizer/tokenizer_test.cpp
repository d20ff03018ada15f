#include <atomic>
#include <thread>

#include "base/error.h"
#include "tokenizer/test_support.h"

namespace fathom::tokenizer {
namespace {

using Ids = std::vector<int32_t>;
const std::string kBos = "<\uFF5Cbegin\u2581of\u2581sentence\uFF5C>";
const std::string kUser = "<\uFF5CUser\uFF5C>";
const std::string kAssistant = "<\uFF5CAssistant\uFF5C>";

TEST(Tokenizer, TOK_1_the_class_name_does_not_change_the_splits) {
  EXPECT_EQ(v3().encode("hello world"), (Ids{33310, 2058}));
  EXPECT_EQ(v3().encode("How are you doing?"), (Ids{4117, 477, 440, 4843, 33}));
  for (const std::string text : {"hello world", "How are you doing?", "  two  spaces "})
    EXPECT_EQ(v3().decode(v3().encode(text), false), text);
}

TEST(Tokenizer, TOK_2_digit_groups) {
  EXPECT_EQ(v3().encode("rfid501.go"), (Ids{35305, 329, 19097, 68082}));
  Ids nines(13, 8834);
  nines.push_back(27);
  EXPECT_EQ(v3().encode(std::string(40, '9')), nines);
  EXPECT_EQ(v3().encode("12345 \u0661\u0662\u0663\u0664\u0665 \u00BD"),
            (Ids{6895, 1883, 223, 63468, 76647, 127056, 152, 100, 152, 101, 223, 23951}));
  EXPECT_EQ(v3().encode("x=1;y=22;z=333;w=4444"),
            (Ids{90, 31, 19, 29, 91, 31, 1302, 29, 92, 31, 11722, 29, 89, 31, 18966, 22}));
}

TEST(Tokenizer, TOK_3_exactly_one_bos) {
  EXPECT_EQ(v3().encode("hi", SpecialTokens::text, true), (Ids{0, 6366}));
  EXPECT_EQ(v3().encode(kBos + "hi", SpecialTokens::encode, true), (Ids{0, 6366}));
  EXPECT_EQ(v3().encode("", SpecialTokens::text, true), (Ids{0}));
  // The rendered conversation of the field case already starts with BOS.
  const std::string chat = kBos + "Be brief." + kUser + "hi" + kAssistant +
                           "hello<\uFF5Cend\u2581of\u2581sentence\uFF5C>" + kUser + "2+2?" + kAssistant;
  const Ids expected = {0, 7153, 9708, 16, 128803, 6366, 128804, 33310, 1, 128803, 20, 13, 20, 33, 128804};
  EXPECT_EQ(v3().encode(chat, SpecialTokens::encode), expected);
  EXPECT_EQ(v3().encode(chat, SpecialTokens::encode, true), expected);
}

TEST(Tokenizer, TOK_10_names_play_no_part_and_unsupported_parts_are_named) {
  Json json = small_json();
  const Ids expected = load_text(json.dump()).encode("some text, 123");
  EXPECT_EQ(load_text(json.dump(), R"({"tokenizer_class": "NoSuchTokenizer", "name_or_path": "nonsense"})")
                .encode("some text, 123"),
            expected);
  json["pre_tokenizer"] =
      Json::parse(R"({"type": "Sequence", "pretokenizers": [{"type": "UnicodeScripts"}]})");
  const std::string message = message_of<ConfigError>([&] { load_text(json.dump()); });
  EXPECT_NE(message.find("UnicodeScripts"), std::string::npos) << message;
  EXPECT_NE(message.find("pre_tokenizer.pretokenizers[0]"), std::string::npos) << message;
  EXPECT_NE(message.find("tokenizer.json"), std::string::npos) << message;
}

TEST(Tokenizer, control_tokens_in_ordinary_text_stay_text) {
  const std::string text = "a" + kUser + "b<|EOT|>" + kBos;
  const Ids plain = v3().encode(text);
  for (const int32_t id : plain) EXPECT_FALSE(v3().is_control(id)) << id;
  EXPECT_EQ(v3().decode(plain, false), text);
  EXPECT_EQ(v3().encode(text, SpecialTokens::encode), (Ids{67, 128803, 68, 128805, 0}));
}

TEST(Tokenizer, facts_of_the_shipped_tokenizer) {
  EXPECT_EQ(v3().vocab_size(), 128815);
  EXPECT_EQ(v3().bos_id(), 0);
  EXPECT_EQ(v3().eos_id(), 1);
  EXPECT_TRUE(v3().adds_bos());
  EXPECT_EQ(v3().token_to_id(kUser), 128803);
  EXPECT_EQ(v3().token_to_id("\u0120world"), 2058);
  EXPECT_EQ(v3().token_to_id("no such token"), std::nullopt);
  EXPECT_EQ(v3().token_bytes(2058), " world");
  EXPECT_EQ(v3().token_bytes(128803), kUser);
  EXPECT_EQ(v3().token_bytes(-1), "");
  EXPECT_EQ(v3().token_bytes(1 << 30), "");
  EXPECT_TRUE(v3().is_special(0));
  EXPECT_FALSE(v3().is_special(128803));
  EXPECT_TRUE(v3().is_control(128803));
  EXPECT_FALSE(v3().is_control(2058));
  EXPECT_EQ(v3().path().filename(), "tokenizer.json");
}

TEST(Tokenizer, decode_skips_special_tokens_and_ids_without_a_token) {
  EXPECT_EQ(v3().decode(Ids{0, 33310, 128803, 2058, 1}, true), "hello" + kUser + " world");
  EXPECT_EQ(v3().decode(Ids{33310, 129279, 2058}, false), "hello world");
  EXPECT_EQ(v3().decode(Ids{}, false), "");
  EXPECT_THROW(v3().decode(Ids{5, -1}, false), DataError);
}

TEST(Tokenizer, invalid_utf8_is_refused_with_its_offset) {
  const std::pair<std::string, int> cases[] = {
      {"abc\xFF", 3},          {"\x80", 0},          {"ab\xC3", 2},
      {"\xC0\xAF", 0},         {"x\xED\xA0\x80", 1}, {"12345678\xE4\xB8", 8},
      {"\xF4\x90\x80\x80", 0}, {"\xE0\x80\x80", 0},  {"\xF0\x9F\x98", 0}};
  for (const auto& [text, offset] : cases) {
    Ids ids = {42};
    EncodeScratch scratch;
    const std::string message = message_of<DataError>([&] { v3().encode_into(text, scratch, ids); });
    EXPECT_NE(message.find("byte " + std::to_string(offset) + " "), std::string::npos) << message;
    EXPECT_EQ(ids, (Ids{42}));
  }
}

TEST(Tokenizer, encode_into_appends_and_a_scratch_serves_several_tokenizers) {
  const Tokenizer small = load_text(small_json().dump());
  std::string text;
  for (int i = 0; i < 20000; ++i) text += "word" + std::to_string(i % 97) + " ";  // long enough for the cache
  const Ids big_ids = v3().encode(text), small_ids = small.encode(text);
  EncodeScratch scratch;
  for (int round = 0; round < 2; ++round) {
    Ids ids = {7};
    v3().encode_into(text, scratch, ids);
    EXPECT_EQ(ids.size(), big_ids.size() + 1);
    EXPECT_TRUE(std::equal(big_ids.begin(), big_ids.end(), ids.begin() + 1));
    ids.clear();
    small.encode_into(text, scratch, ids);
    EXPECT_EQ(ids, small_ids);
  }
}

TEST(Tokenizer, many_threads_share_one) {
  const std::string text = read_text_file(data_dir() / "files/botchan-en.txt");
  const Ids expected = v3().encode(text);
  std::atomic<int> equal{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { equal += v3().encode(text) == expected; });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(equal, 4);
}

// Long pieces take another way through BPE than short ones: both against the definition, straight from the
// file.
TEST(Tokenizer, long_pieces_merge_as_the_definition_says) {
  Json json = small_json();
  json["pre_tokenizer"] =
      Json::parse(R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})");
  const Tokenizer tokenizer = load_text(json.dump());
  const auto reference = [&](const std::string& text) {
    std::vector<std::string> parts;
    for (const char c : text) parts.push_back(c == ' ' ? "\u0120" : std::string(1, c));
    while (true) {
      size_t best_rank = SIZE_MAX, best = 0;
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const Json& merges = json["model"]["merges"];
        for (size_t rank = 0; rank < merges.size() && rank < best_rank; ++rank)
          if (merges[rank][0] == parts[i] && merges[rank][1] == parts[i + 1]) best_rank = rank, best = i;
      }
      if (best_rank == SIZE_MAX) break;
      parts[best] += parts[best + 1];
      parts.erase(parts.begin() + static_cast<ptrdiff_t>(best) + 1);
    }
    Ids ids;
    for (const std::string& part : parts) ids.push_back(tokenizer.token_to_id(part).value());
    return ids;
  };
  const std::string text = "the other that thinking of an onion in the then thereon";
  for (const size_t length : {1, 2, 3, 31, 63, 64, 65, 66, 100, 127}) {
    std::string piece;
    while (piece.size() < length) piece += text.substr(piece.size() % 7);
    piece.resize(length);
    EXPECT_EQ(tokenizer.encode(piece), reference(piece)) << length;
  }
}

TEST(Tokenizer, very_long_runs_take_linear_time) {
  Json json = small_json();
  for (const Json& variant : read_json_lines(data_dir() / "variants.jsonl")) {
    if (!variant["change"].contains("pre_tokenizer")) continue;
    json["pre_tokenizer"] = variant["change"]["pre_tokenizer"];
    const Tokenizer tokenizer = load_text(json.dump());
    for (const std::string unit : {" ", "\n", "A", "a", "7", "-", "\u4E2D", "\u0301", "\x01"}) {
      std::string text;
      for (int i = 0; i < 100000; ++i) text += unit;
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text + "7"), false), text + "7") << variant["name"];
    }
  }
}

TEST(DecodeStream, gives_whole_characters_only) {
  const std::string text = "a\u00E9\u4E2D\U0001F468\u200D\U0001F469 \U0001F3FD e\u0301 \u0661\u0662 " + kUser;
  const Ids ids = v3().encode(text);
  DecodeStream stream(v3());
  std::string joined;
  size_t empty = 0;
  for (const int32_t id : ids) {
    const std::string part = stream.push(id);
    empty += part.empty();
    EXPECT_EQ(part.find("\uFFFD"), std::string::npos);
    EXPECT_NO_THROW(v3().encode(part)) << "half a character";
    joined += part;
  }
  EXPECT_GT(empty, 0u) << "this text has characters of several tokens";
  EXPECT_EQ(joined, text);
  EXPECT_EQ(stream.finish(), "");
}

// What single bytes (every token may be one) add up to is what all of them give at once.
TEST(DecodeStream, broken_sequences_become_replacement_characters) {
  const auto byte_id = [&](unsigned char byte) {
    for (int32_t id = 0; id < 600; ++id)
      if (v3().token_bytes(id) == std::string(1, static_cast<char>(byte))) return id;
    return -1;
  };
  const std::pair<std::string, std::string> cases[] = {
      {"\xE4\xB8", "\uFFFD"},
      {"\xE4\xB8\xAD", "\u4E2D"},
      {"\xE4\xB8!", "\uFFFD!"},
      {"\xF0\x9F\x98\xE4\xB8\xAD", "\uFFFD\u4E2D"},
      {"\x80\x80", "\uFFFD\uFFFD"},
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"\xE0\x80\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xC3", "\uFFFD"},
      {"\xF0\x90", "\uFFFD"},
      {"\xE0\xA0", "\uFFFD"},
      {"\xC3\xC3\xA9", "\uFFFD\u00E9"},
  };
  for (const auto& [bytes, expected] : cases) {
    Ids ids;
    for (const char c : bytes) ids.push_back(byte_id(static_cast<unsigned char>(c)));
    EXPECT_EQ(v3().decode(ids, false), expected);
    DecodeStream stream(v3());
    std::string joined;
    for (const int32_t id : ids) joined += stream.push(id);
    EXPECT_EQ(joined + stream.finish(), expected);
  }
}

TEST(DecodeStream, skips_special_tokens_when_asked) {
  DecodeStream stream(v3(), true);
  EXPECT_EQ(stream.push(0), "");
  EXPECT_EQ(stream.push(33310), "hello");
  EXPECT_EQ(stream.push(1), "");
  EXPECT_THROW(stream.push(-5), DataError);
}

}  // namespace
}  // namespace fathom::tokenizer

// Token-for-token equality with HF tokenizers 0.23.3 (fixtures: make_golden.py).
#include <array>
#include <cstring>

#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/test_support.h"

namespace fathom::tokenizer {
namespace {

using Ids = std::vector<int32_t>;

// FIPS 180-4, for the id lists of whole files, which the fixtures keep as a digest.
std::string sha256(std::string message) {
  static constexpr std::array<uint32_t, 64> kRound = [] {
    // The first 32 bits of the fractional parts of the cube roots of the first 64 primes, by integer search.
    std::array<uint32_t, 64> k{};
    size_t count = 0;
    for (unsigned n = 2; count < 64; ++n) {
      bool prime = true;
      for (unsigned d = 2; d * d <= n; ++d) prime &= n % d != 0;
      if (!prime) continue;
      __extension__ using Wide = unsigned __int128;
      uint64_t low = 0, high = uint64_t{1} << 36;  // cube root times 2^32
      while (low + 1 < high) {
        const uint64_t middle = (low + high) / 2;
        // middle^3 <= n * 2^96, without overflow: middle < 2^36.
        const Wide square = static_cast<Wide>(middle) * middle;
        if ((square >> 32) * middle + (((square & 0xFFFFFFFFu) * middle) >> 32) < static_cast<Wide>(n) << 64)
          low = middle;
        else
          high = middle;
      }
      k[count++] = static_cast<uint32_t>(low);
    }
    return k;
  }();
  std::array<uint32_t, 8> h = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                               0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const uint64_t bits = message.size() * 8;
  message += '\x80';
  while (message.size() % 64 != 56) message += '\0';
  for (int shift = 56; shift >= 0; shift -= 8) message += static_cast<char>(bits >> shift);
  const auto rotate = [](uint32_t x, int n) { return x >> n | x << (32 - n); };
  for (size_t block = 0; block < message.size(); block += 64) {
    uint32_t w[64];
    for (size_t i = 0; i < 16; ++i) {
      w[i] = 0;
      for (size_t b = 0; b < 4; ++b)
        w[i] = w[i] << 8 | static_cast<unsigned char>(message[block + 4 * i + b]);
    }
    for (size_t i = 16; i < 64; ++i)
      w[i] = w[i - 16] + w[i - 7] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
             (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
    auto s = h;
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t t1 = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) +
                          ((s[4] & s[5]) ^ (~s[4] & s[6])) + kRound[i] + w[i];
      const uint32_t t2 = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) +
                          ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      s = {t1 + t2, s[0], s[1], s[2], s[3] + t1, s[4], s[5], s[6]};
    }
    for (size_t i = 0; i < 8; ++i) h[i] += s[i];
  }
  std::string hex;
  for (const uint32_t word : h) {
    char text[9];
    std::snprintf(text, sizeof text, "%08x", word);
    hex += text;
  }
  return hex;
}

void expect_cases(const fs::path& path, size_t at_least) {
  const auto cases = read_json_lines(path);
  EXPECT_GE(cases.size(), at_least);
  for (const Json& item : cases) {
    const auto text = item["text"].get<std::string>();
    const auto ids = item["ids"].get<Ids>();
    ASSERT_EQ(v3().encode(text, SpecialTokens::encode), ids) << text.substr(0, 200);
    ASSERT_EQ(v3().decode(ids, false), text);
  }
}

TEST(TokenizerGolden, llama_cpp_cases_and_naughty_strings) { expect_cases(data_dir() / "golden.jsonl", 562); }
TEST(TokenizerGolden, mixed_text) { expect_cases(data_dir() / "mixed.jsonl", 250); }

TEST(TokenizerGolden, whole_files) {
  ASSERT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EncodeScratch scratch;
  for (const Json& file : read_json_file(data_dir() / "files.json")) {
    const std::string text = read_text_file(data_dir() / "files" / file["file"].get<std::string>());
    Ids ids;
    // Twice, so that the second pass reads the word cache of the first.
    for (int pass = 0; pass < 2; ++pass) {
      ids.clear();
      v3().encode_into(text, scratch, ids, SpecialTokens::encode);
      ASSERT_EQ(ids.size(), file["num_ids"].get<size_t>()) << file["file"];
      std::string bytes(ids.size() * 4, '\0');
      std::memcpy(bytes.data(), ids.data(), bytes.size());
      EXPECT_EQ(sha256(bytes), file["sha256"]) << file["file"];
    }
    EXPECT_EQ(v3().decode(ids, false), text) << file["file"];
  }
}

// Other pre-tokenizers of the family, added tokens with every flag, templates, ignore_merges, on a small
// vocabulary.
TEST(TokenizerGolden, variants) {
  const auto variants = read_json_lines(data_dir() / "variants.jsonl");
  EXPECT_GE(variants.size(), 14u);
  for (const Json& variant : variants) {
    Json json = small_json();
    for (const auto& [key, value] : variant["change"].items())
      (key == "ignore_merges" ? json["model"] : json)[key] = value;
    const Tokenizer tokenizer = load_text(json.dump());
    for (const Json& item : variant["cases"]) {
      const auto text = item["text"].get<std::string>();
      const auto ids = item["ids"].get<Ids>();
      ASSERT_EQ(tokenizer.encode(text, SpecialTokens::encode), ids)
          << variant["name"] << ": " << item["text"];
      if (variant["name"] != "added") {  // rstrip and lstrip eat spaces
        ASSERT_EQ(tokenizer.decode(ids, false), text) << variant["name"];
      }
      if (item.contains("ids_special")) {
        ASSERT_EQ(tokenizer.encode(text, SpecialTokens::encode, true), item["ids_special"].get<Ids>());
      }
    }
  }
}

// The hand-written V3 pass and the general matcher cut alike.
TEST(TokenizerGolden, v3_pass_equals_the_general_matcher) {
  const Json first = read_json_lines(data_dir() / "variants.jsonl").front();
  ASSERT_EQ(first["name"], "v3");
  const Json json = first["change"]["pre_tokenizer"];
  const PreTokenizer fast = PreTokenizer::from_json(json, "test");
  ASSERT_TRUE(fast.is_v3());
  PreTokenizer general = fast;
  general.use_generic();
  PreTokenizer::Scratch scratch;
  const auto pieces = [&](const PreTokenizer& splitter, std::string_view text) {
    std::vector<std::string> result;
    splitter.split(text, scratch, [&](std::string_view piece) { result.emplace_back(piece); });
    return result;
  };
  for (const Json& item : read_json_lines(data_dir() / "mixed.jsonl")) {
    const auto text = item["text"].get<std::string>();
    ASSERT_EQ(pieces(fast, text), pieces(general, text)) << text;
  }
  for (const char* name : {"blns.txt", "wagahai-ja.txt", "botchan-en.txt"}) {
    const std::string text = read_text_file(data_dir() / "files" / name);
    ASSERT_EQ(pieces(fast, text), pieces(general, text)) << name;
  }
}

}  // namespace
}  // namespace fathom::tokenizer

#include "tokenizer/bpe.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <random>

#include "tokenizer/test_support.h"
#include "tokenizer/utf8.h"

namespace fathom::tokenizer {
namespace {

using Ids = std::vector<int32_t>;

std::string spell(const std::string& bytes) {
  std::string spelled;
  for (const char c : bytes) append_utf8(spelled, byte_alphabet()[static_cast<unsigned char>(c)]);
  return spelled;
}

struct Vocabulary {
  std::vector<std::string> tokens;          // by id, as bytes; the first 256 are the bytes themselves
  std::vector<std::pair<int, int>> merges;  // by rank

  Bpe build() const {
    Bpe bpe;
    bpe.reserve(tokens.size(), merges.size());
    for (size_t id = 0; id < tokens.size(); ++id)
      bpe.add_token(spell(tokens[id]), static_cast<int64_t>(id), "test");
    for (const auto& [left, right] : merges)
      bpe.add_merge(spell(tokens[static_cast<size_t>(left)]), spell(tokens[static_cast<size_t>(right)]),
                    "test");
    bpe.finish(false, "test");
    return bpe;
  }

  // The definition: from bytes, the lowest rank first, the leftmost of equals.
  Ids merge(const std::string& piece) const {
    std::map<std::pair<int, int>, size_t> ranks;
    std::map<std::string, int> ids;
    for (size_t rank = 0; rank < merges.size(); ++rank) ranks[merges[rank]] = rank;
    for (size_t id = 0; id < tokens.size(); ++id) ids[tokens[id]] = static_cast<int>(id);
    Ids symbols;
    for (const char c : piece) symbols.push_back(static_cast<unsigned char>(c));
    while (true) {
      size_t best = SIZE_MAX, at = 0;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto found = ranks.find({symbols[i], symbols[i + 1]});
        if (found != ranks.end() && found->second < best) best = found->second, at = i;
      }
      if (best == SIZE_MAX) return symbols;
      symbols[at] =
          ids.at(tokens[static_cast<size_t>(symbols[at])] + tokens[static_cast<size_t>(symbols[at + 1])]);
      symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(at) + 1);
    }
  }
};

// Merges learnt from pairs that stand side by side anywhere, so that tokens reach across the ends of characters
// while cutting them.
Vocabulary random_vocabulary(std::mt19937& random, const std::vector<std::string>& texts, size_t merges) {
  Vocabulary result;
  std::vector<Ids> symbols;
  for (int byte = 0; byte < 256; ++byte) result.tokens.emplace_back(1, static_cast<char>(byte));
  for (const std::string& text : texts) {
    symbols.emplace_back();
    for (const char c : text) symbols.back().push_back(static_cast<unsigned char>(c));
  }
  for (size_t tries = 0; result.merges.size() < merges && tries < 10 * merges; ++tries) {
    const Ids& line = symbols[random() % symbols.size()];
    if (line.size() < 2) continue;
    const size_t at = random() % (line.size() - 1);
    const std::pair<int, int> pair(line[at], line[at + 1]);
    const std::string token =
        result.tokens[static_cast<size_t>(pair.first)] + result.tokens[static_cast<size_t>(pair.second)];
    if (std::find(result.tokens.begin(), result.tokens.end(), token) != result.tokens.end()) continue;
    result.tokens.push_back(token);
    result.merges.push_back(pair);
    for (size_t i = 0; i < symbols.size(); ++i) symbols[i] = result.merge(texts[i]);
  }
  return result;
}

TEST(Bpe, whole_characters_merge_as_their_bytes_do) {
  const std::vector<std::string> characters = {"中", "国", "国中", "好", "ж",  "א",  "ב",  "א中", "가",
                                               "각", "a",  " ",    "😀",  "。", "、", "の", "é",   "e"};
  std::mt19937 random(7);
  std::vector<std::string> some;
  const auto text = [&](size_t most) {
    std::string result;
    for (size_t n = 1 + random() % most; n > 0; --n) result += some[random() % some.size()];
    return result;
  };
  for (int round = 0; round < 120; ++round) {
    // Few characters at a time, so that many pairs of them are tokens.
    some.clear();
    while (some.size() < 4) some.push_back(characters[random() % characters.size()]);
    std::vector<std::string> texts(6);
    for (std::string& one : texts) one = text(8);
    Vocabulary vocabulary = random_vocabulary(random, texts, 12 + static_cast<size_t>(round % 40));
    // Every third: ranks that do not grow with the tokens, where some characters must start as bytes.
    if (round % 3 == 2) std::shuffle(vocabulary.merges.begin(), vocabulary.merges.end(), random);
    const Bpe bpe = vocabulary.build();
    Bpe::Scratch scratch;
    for (int i = 0; i < 40; ++i) {
      const std::string piece = text(i % 10 == 0 ? 60 : 9);
      Ids ids;
      bpe.encode(piece, scratch, ids);
      ASSERT_EQ(ids, vocabulary.merge(piece)) << round << ": " << piece;
    }
  }
}

}  // namespace
}  // namespace fathom::tokenizer

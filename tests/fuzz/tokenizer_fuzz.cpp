// Encoding and decoding: whatever is encoded decodes to itself, in one piece and as a stream.
#include "tokenizer/tokenizer.h"

#include <vector>

#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fathom;
  using tokenizer::SpecialTokens;
  static const auto tokenizer = tokenizer::Tokenizer::load(std::filesystem::path(FATHOM_SOURCE_DIR) /
                                                           "tests/tokenizer/data/small.json");
  const auto joined = [&](const std::vector<int32_t>& ids) {
    tokenizer::DecodeStream stream(tokenizer);
    std::string text;
    for (const int32_t id : ids) text += stream.push(id);
    return text + stream.finish();
  };

  const std::string_view text = fuzz::as_text(data, size);
  for (const SpecialTokens special : {SpecialTokens::text, SpecialTokens::encode}) {
    std::vector<int32_t> ids;
    if (!fuzz::accepts([&] { ids = tokenizer.encode(text, special); })) continue;  // not UTF-8
    FATHOM_CHECK(tokenizer.decode(ids, false) == text);
    FATHOM_CHECK(joined(ids) == text);
  }

  // The input as ids: bytes that form no character, ids that stand for nothing.
  std::vector<int32_t> ids;
  for (size_t i = 0; i + 1 < size; i += 2) ids.push_back(data[i] | (data[i + 1] & 3) << 8);
  FATHOM_CHECK(joined(ids) == tokenizer.decode(ids, false));
  return 0;
}

// tiktoken.model files behind the 256 bytes, and (behind a zero byte) tokenizer_config.json: loaded or refused; a loaded
// one encodes and decodes without a fault.
#include "fuzz/fuzz.h"
#include "tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fathom;
  static const std::string bytes = [] {
    constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string lines;
    for (unsigned b = 0; b < 256; ++b)
      lines += {kDigits[b >> 2], kDigits[(b & 3) << 4], '=', '=', ' '}, lines += std::to_string(b) + "\n";
    return lines;
  }();
  const std::string_view input = fuzz::as_text(data, size);
  const size_t cut = std::min(input.find('\0'), input.size());
  const std::filesystem::path file = fuzz::scratch_directory() / "tiktoken.model";
  fuzz::write_file(file, bytes + std::string(input.substr(0, cut)));
  fuzz::write_file(fuzz::scratch_directory() / "tokenizer_config.json",
                   cut < input.size() ? input.substr(cut + 1) : R"({"added_tokens_decoder": {}})");
  fuzz::accepts([&] {
    const auto tokenizer = tokenizer::Tokenizer::load(file);
    for (const std::string text :
         {"", "abc ab", " a\n 12345 <s>c\u00e9\u4e2d\u6587", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}) {
      std::vector<int32_t> ids;
      if (fuzz::accepts([&] { ids = tokenizer.encode(text, tokenizer::SpecialTokens::encode); }))
        FATHOM_CHECK(tokenizer.decode(ids, false) == text);
    }
    tokenizer.decode(std::vector<int32_t>{0, 1, 2, tokenizer.vocab_size(), INT32_MAX}, false);
  });
  return 0;
}

// tokenizer.json files: loaded or refused; a loaded one encodes and decodes without a fault.
#include "fuzz/fuzz.h"
#include "tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fathom;
  const std::filesystem::path file = fuzz::scratch_directory() / "tokenizer.json";
  fuzz::write_file(file, fuzz::as_text(data, size));
  fuzz::accepts([&] {
    const auto tokenizer = tokenizer::Tokenizer::load(file);
    for (const std::string text : {"", "abc ab", " a\n 12345 <s>c\u00e9", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"})
      fuzz::accepts(
          [&] { tokenizer.decode(tokenizer.encode(text, tokenizer::SpecialTokens::encode), true); });
    tokenizer.decode(std::vector<int32_t>{0, 1, 2, tokenizer.vocab_size(), INT32_MAX}, false);
  });
  return 0;
}

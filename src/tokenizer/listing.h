// A tokenizer spelled out, for files that carry one inside (GGUF).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fathom::tokenizer {

struct ListedToken {
  enum class Kind : uint8_t {
    none,      // a hole: the id stands for no token
    ordinary,  // of the vocabulary, spelled in the byte alphabet
    added,     // an added token, spelled as it is
    special,   // one marked special, or written as a marker: <|...|>, with ASCII or full-width bars
  };
  std::string spelled;
  Kind kind = Kind::none;
};

struct Listing {
  std::vector<ListedToken> tokens;                  // by id
  std::vector<std::pair<int32_t, int32_t>> merges;  // ids, in their order
  // How text is cut, under llama.cpp's name (PreTokenizer::scheme); empty: in a way that has none.
  std::string_view scheme;
  std::optional<int32_t> bos_id, eos_id;  // as tokenizer_config.json names them
  bool adds_bos = false;                  // text begins with bos_id where HF encodes it
  std::filesystem::path path;             // the tokenizer.json or tiktoken.model
};

// As Tokenizer::load; throws FileError and ConfigError.
Listing list_tokenizer(const std::filesystem::path& file_or_dir);

}  // namespace fathom::tokenizer

// A tokenizer of bytes for tests on tiny vocabularies: id 0 is <bos>, 1 is <eos>, 2 + b is the byte b.
#pragma once

#include <filesystem>
#include <string>

#include "base/file.h"
#include "base/json.h"

namespace fathom::test {

// The character by which a byte-level vocabulary writes a byte: itself where printable, else from U+0100 on.
inline std::string byte_character(int byte) {
  const auto is_printable = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  int code = byte;
  if (!is_printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += is_printable(b) ? 0 : 1;
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

inline void write_byte_tokenizer(const std::filesystem::path& directory) {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[byte_character(byte)] = byte + 2;
  const auto added = [](int id, const char* content) {
    return Json({{"id", id},
                 {"content", content},
                 {"single_word", false},
                 {"lstrip", false},
                 {"rstrip", false},
                 {"normalized", false},
                 {"special", true}});
  };
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const Json file = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", {added(0, "<bos>"), added(1, "<eos>")}},
                     {"normalizer", nullptr},
                     {"pre_tokenizer", byte_level},
                     {"post_processor", nullptr},
                     {"decoder", byte_level},
                     {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}};
  write_text_file(directory / "tokenizer.json", file.dump());
  write_text_file(directory / "tokenizer_config.json",
                  Json({{"bos_token", "<bos>"}, {"eos_token", "<eos>"}, {"add_bos_token", true}}).dump());
}

}  // namespace fathom::test

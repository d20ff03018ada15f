// What a loaded tokenizer consists of (internal to tokenizer/).
#pragma once

#include <optional>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace fathom::tokenizer {

struct TokenizerData {
  std::filesystem::path path;
  Bpe bpe;
  AddedTokens added;
  StringTable added_ids;          // content -> id
  std::vector<int32_t> added_at;  // id -> index in added.tokens(), -1: not an added token
  int32_t vocab_size = 0;
  PreTokenizer pre_tokenizer;

  bool has_template = false;
  std::vector<int32_t> prefix, suffix;  // of the template
  std::optional<int32_t> bos_id, eos_id;
  bool add_bos_token = false, add_eos_token = false;  // tokenizer_config.json

  const AddedToken* added_token(int32_t id) const {
    if (id < 0 || static_cast<size_t>(id) >= added_at.size() || added_at[static_cast<size_t>(id)] < 0)
      return nullptr;
    return &added.tokens()[static_cast<size_t>(added_at[static_cast<size_t>(id)])];
  }
};

}  // namespace fathom::tokenizer

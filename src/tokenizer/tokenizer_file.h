// The files that a tokenizer is read from (internal to tokenizer/). Each function fills `data`, whose path is set (but
// by the first), and throws FileError and ConfigError.
#pragma once

#include <string>
#include <vector>

#include "tokenizer/tokenizer_data.h"

namespace fathom::tokenizer {

// All of it, as Tokenizer::load.
void read_tokenizer(const std::filesystem::path& file_or_dir, TokenizerData& data);

// All but bos_id, eos_id, add_bos_token and add_eos_token, from a tokenizer.json.
void read_tokenizer_json(TokenizerData& data);

// The same from a tiktoken.model (a line for each token: its bytes in base64, a space, its rank, which is its id) and
// the added_tokens_decoder of the tokenizer_config.json beside it.
void read_tiktoken_model(TokenizerData& data);

// Gives every added token its place by id and by content, and checks both against the vocabulary.
void place_added_tokens(std::vector<AddedToken> tokens, const std::string& where, TokenizerData& data);

}  // namespace fathom::tokenizer

// Text <-> token ids, from the tokenizer.json of any DeepSeek-V3-family model, or from the tiktoken.model of Kimi-K2
// and Moonlight. The ids equal those of HF tokenizers 0.23.3, and of tiktoken 0.14.0, token for token. tokenizer.json alone decides what happens to text; of
// tokenizer_config.json beside it only bos_token, eos_token, add_bos_token and add_eos_token are read (class
// and model names play no part).
//
//   const Tokenizer tokenizer = Tokenizer::load("assets/tokenizer");
//   std::vector<int32_t> ids = tokenizer.encode("hello world");   // {33310, 2058}
//   tokenizer.decode(ids, false);                                 // "hello world"
//
// Supported: model BPE (byte level, with or without ignore_merges); normalizer null or empty; pre-tokenizers
// Split (Isolated; patterns see regex.h), Digits, ByteLevel, Sequence; added tokens with all their flags;
// post-processors ByteLevel, TemplateProcessing, Sequence; decoder ByteLevel. Anything else is refused by
// name when loading. "truncation" and "padding" are not applied: they are a matter of the caller, as in
// transformers.
//
// Of a tiktoken.model the special tokens are the 256 ids behind the ranks, named by added_tokens_decoder of
// tokenizer_config.json or else <|reserved_token_ID|>; text is cut by Kimi's pattern (pre_tokenizer.h), and a Python
// file beside it that states another one is refused.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fathom::tokenizer {

// What becomes of the literal text of a control token inside the input. Control tokens are the special ones
// and all added tokens written <...>: DeepSeek's own files do not mark <|User|> (with full-width bars) as
// special.
enum class SpecialTokens {
  text,    // ordinary text, so that a document cannot forge a turn of the conversation
  encode,  // the token's id, as HF does
};

class EncodeScratch;
struct TokenizerData;

class Tokenizer {
 public:
  // A tokenizer.json, a tiktoken.model (by its extension .model or .tiktoken, with tokenizer_config.json beside it), or
  // a directory: its tokenizer.json, else its tiktoken.model. Throws FileError (missing, unreadable) and ConfigError
  // (naming the file and the part that is malformed or not supported).
  static Tokenizer load(const std::filesystem::path& file_or_dir);
  // Whether load() finds a file to read in the directory.
  static bool is_in(const std::filesystem::path& dir);

  // The ids of `text`. Throws DataError with the byte offset when it is not well-formed UTF-8 (nothing is
  // replaced). add_special: put the tokens of the post-processor's template around it; without a template BOS
  // in front, and EOS behind where tokenizer_config.json says add_eos_token. A text that already starts with
  // BOS gets no second one. Throws ConfigError when add_special is asked and neither a template nor a BOS
  // token is known.
  std::vector<int32_t> encode(std::string_view text, SpecialTokens special = SpecialTokens::text,
                              bool add_special = false) const;
  // Appends to `out` (which keeps its content; unchanged when an error is thrown). One scratch a thread, kept
  // between calls: it holds the cache of frequent words. Safe to call from many threads.
  void encode_into(std::string_view text, EncodeScratch& scratch, std::vector<int32_t>& out,
                   SpecialTokens special = SpecialTokens::text, bool add_special = false) const;

  // Ids that stand for no token (holes, or above vocab_size() where a model's output is padded) give nothing,
  // as with HF. Bytes that form no character become U+FFFD. Throws DataError on a negative id.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;
  // The bytes a token stands for; empty for ids that stand for none. An added token stands for its content.
  std::string_view token_bytes(int32_t id) const;

  int32_t vocab_size() const;  // highest id + 1
  // The id of a token as tokenizer.json spells it (content of added tokens, byte alphabet for the rest).
  std::optional<int32_t> token_to_id(std::string_view token) const;
  bool is_special(int32_t id) const;      // an added token with "special": true
  bool is_control(int32_t id) const;      // special, or an added token written <...>
  std::optional<int32_t> bos_id() const;  // from tokenizer_config.json, where there is one
  std::optional<int32_t> eos_id() const;
  bool adds_bos() const;  // whether HF would add BOS by itself: a template, or add_bos_token
  const std::filesystem::path& path() const;  // the tokenizer.json or tiktoken.model

 private:
  explicit Tokenizer(std::shared_ptr<const TokenizerData> data) : data_(std::move(data)) {}
  std::shared_ptr<const TokenizerData> data_;  // immutable: copies are cheap and share it
};

// Working memory of one thread for Tokenizer::encode_into. May be used with several tokenizers in turn.
class EncodeScratch {
 public:
  EncodeScratch();
  ~EncodeScratch();
  EncodeScratch(EncodeScratch&&) noexcept;
  EncodeScratch& operator=(EncodeScratch&&) noexcept;

 private:
  friend class Tokenizer;
  struct State;
  std::unique_ptr<State> state_;
};

// Decodes a stream of ids, giving out whole UTF-8 characters only. What push() and finish() return, joined,
// is decode() of all the ids.
class DecodeStream {
 public:
  explicit DecodeStream(const Tokenizer& tokenizer, bool skip_special_tokens = false)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}
  std::string push(int32_t id);  // may be empty. Throws DataError on a negative id
  std::string finish();          // what is held back, as U+FFFD; the stream starts anew

 private:
  Tokenizer tokenizer_;
  bool skip_special_tokens_;
  std::string held_;  // the start of a character
};

}  // namespace fathom::tokenizer

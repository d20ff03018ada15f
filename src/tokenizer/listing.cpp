#include "tokenizer/listing.h"

#include "tokenizer/tokenizer_file.h"

namespace fathom::tokenizer {
namespace {

bool looks_special(std::string_view text) {
  return (text.starts_with("<|") && text.ends_with("|>")) ||
         (text.starts_with("<\xEF\xBD\x9C") && text.ends_with("\xEF\xBD\x9C>"));  // U+FF5C
}

}  // namespace

Listing list_tokenizer(const std::filesystem::path& file_or_dir) {
  TokenizerData data;
  read_tokenizer(file_or_dir, data);
  Listing listing;
  listing.tokens.resize(static_cast<size_t>(data.vocab_size));
  const StringTable& vocab = data.bpe.vocab();
  for (size_t i = 0; i < vocab.size(); ++i)
    listing.tokens[static_cast<size_t>(vocab.id(i))] = {std::string(vocab.text(i)),
                                                        ListedToken::Kind::ordinary};
  for (const AddedToken& token : data.added.tokens())
    listing.tokens[static_cast<size_t>(token.id)] = {
        token.content, token.special || looks_special(token.content) ? ListedToken::Kind::special
                                                                     : ListedToken::Kind::added};
  listing.merges = data.bpe.merges();
  listing.scheme = data.pre_tokenizer.scheme();
  listing.bos_id = data.bos_id;
  listing.eos_id = data.eos_id;
  listing.adds_bos =
      data.bos_id &&
      (data.has_template ? !data.prefix.empty() && data.prefix[0] == *data.bos_id : data.add_bos_token);
  listing.path = data.path;
  return listing;
}

}  // namespace fathom::tokenizer

// A dataset while it grows: three files in a directory beside the output (tokens, lengths of sequences, ends of
// documents), only ever appended to, so that a build can go on from any state that save() described. A document
// may come in parts and may be taken back while it is open. Memory is three small buffers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "formats/indexed_dataset.h"

namespace fathom::data {

class AppendedFile;

class BuildOutput {
 public:
  // `piece_tokens` > 0: all documents are laid end to end and cut into pieces of exactly that many tokens, each
  // a document of one sequence; what is left at the end is dropped. `state`: what save() gave, empty: a new
  // dataset. Throws FileError, DataError (the files are shorter than the state says).
  BuildOutput(std::filesystem::path directory, formats::TokenType type, int64_t piece_tokens,
              const Json& state);
  ~BuildOutput();

  void begin_document(bool may_be_taken_back);
  void add(std::span<const int32_t> tokens);  // to the open sequence. Throws DataError: over 2^31-1 tokens
  void end_sequence();
  // `eod` >= 0 is put at the end of the last sequence. A document without a sequence leaves nothing.
  void end_document(int32_t eod);
  void take_back_document();

  int64_t num_documents() const;  // in the dataset
  int64_t num_sequences() const;
  int64_t num_tokens() const;
  int64_t num_dropped_tokens() const;  // at the end, with piece_tokens

  // Brings everything to the disk and describes it.
  Json save();

  // PREFIX.bin and PREFIX.idx of documents [begin, end), after save(). Each appears whole. `describe` runs when
  // the .bin is in place and the .idx is not. `all`: the documents are all there are; the token file itself then
  // becomes the .bin (and may have done so before a break).
  struct Written {
    int64_t documents = 0, sequences = 0, tokens = 0;
  };
  Written count(int64_t begin, int64_t end) const;
  template <typename Describe>
  Written publish(const std::filesystem::path& prefix, int64_t begin, int64_t end, bool all,
                  Describe&& describe) {
    const Written written = count(begin, end);
    put_bin(prefix, begin, end, all);
    describe(written);
    put_index(prefix, begin, end);
    return written;
  }

 private:
  struct Mark {
    int64_t tokens = 0, sequences = 0, documents = 0;
    std::vector<int32_t> carry = {};
  };
  void write_tokens(std::span<const int32_t> tokens);
  void push_length(int64_t length);
  int64_t sequence_begin(int64_t document) const;
  int64_t tokens_before(int64_t sequence) const;
  void put_bin(const std::filesystem::path& prefix, int64_t begin, int64_t end, bool all);
  void put_index(const std::filesystem::path& prefix, int64_t begin, int64_t end) const;

  std::filesystem::path directory_;
  formats::TokenType type_;
  int64_t piece_tokens_;
  std::unique_ptr<AppendedFile> tokens_, lengths_, documents_;
  int64_t num_tokens_ = 0;
  // Of the open document: the last ended sequence, -1 for none, its length not written yet; the open sequence.
  int64_t last_length_ = -1, open_length_ = 0;
  bool is_open_ = false;
  std::vector<int32_t> carry_;  // with piece_tokens: less than a piece
  std::optional<Mark> mark_;
  std::vector<uint16_t> narrow_;
};

}  // namespace fathom::data

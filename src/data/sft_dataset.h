// Fine-tuning data as `fathom data sft` writes it, for the trainer: rows of token ids with a loss mask.
//   PREFIX.bin, .idx            token ids (Megatron's pair). A sequence is one sample, a conversation or a turn of one; a
//                               document is one row of training, with one sample or, packed, several
//   PREFIX_loss_mask.bin, .idx  uint8, sequence for sequence: 1 where the token is a target with loss, else 0
//   PREFIX.meta.json            kind "sft", seq_length, pad_id, and how it was made
// Rows hold at most seq_length + 1 tokens (inputs and labels). Padding lies in no file: it is put behind a row when it
// is read, and has no loss by its place, whatever its id.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/training_data.h"
#include "formats/indexed_dataset.h"

namespace fathom::data {

std::filesystem::path loss_mask_prefix(const std::filesystem::path& prefix);  // PREFIX_loss_mask

class SftDataset {
 public:
  // Throws FileError, ConfigError (.meta.json), DataError: no such data, or a mask that does not belong to it.
  explicit SftDataset(const std::filesystem::path& path);
  static bool is_one(const std::filesystem::path& path);  // by kind in PREFIX.meta.json

  int64_t size() const { return tokens_.num_documents(); }  // rows
  int64_t seq_length() const { return seq_length_; }
  int32_t pad_id() const { return pad_id_; }
  const formats::IndexedDataset& tokens() const { return tokens_; }

  struct Row {
    std::vector<int32_t> ids;      // without padding
    std::vector<uint8_t> trained;  // per id
    std::vector<int32_t> begins;   // of the samples in it; the first is 0
  };
  // Throws DataError: a mask that is neither 0 nor 1, or that trains a sample's first token, which nothing predicts.
  Row row(int64_t index) const;

  // The row padded to `seq_length` + 1 tokens, as a step of training takes it. Positions begin at 0 in each sample and
  // in the padding; document_starts isolates them in attention. Throws DataError: a longer row, an id outside the
  // vocabulary. Any thread may call it.
  Sample sample(int64_t index, int64_t seq_length, int64_t vocab_size) const;

  // Hash of the files' indices, sizes and ends, and of seq_length: the order and the content of the rows.
  std::string fingerprint() const;

 private:
  formats::IndexedDataset tokens_, mask_;
  int64_t seq_length_ = 0;
  int32_t pad_id_ = 0;
};

}  // namespace fathom::data

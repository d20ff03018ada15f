// A training sample for people to look at: where its tokens come from, where documents begin, which tokens have
// loss.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "data/training_data.h"
#include "tokenizer/tokenizer.h"

namespace fathom::cli {

class WindowText {
 public:
  WindowText(const data::TrainingData& training, int64_t index, const tokenizer::Tokenizer* tokenizer);

  // index, source, source_sample, ids [seq_length + 1], loss_mask and position_ids [seq_length], document_starts,
  // pieces: [{document, sequence, begin, tokens}], and with a tokenizer text.
  Json json() const;
  // One block a piece; ⟦⟧ around what the model is not trained to say.
  std::string text() const;

 private:
  std::string piece_text(size_t begin, size_t end) const;
  int64_t index_;
  std::string source_;
  data::TrainingData::Origin origin_;
  data::Sample sample_;
  std::vector<data::GptDataset::Piece> pieces_;
  const tokenizer::Tokenizer* tokenizer_;
};

}  // namespace fathom::cli

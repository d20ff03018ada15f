// From windows of tokens to the tensors of a micro-batch: targets, masks, documents, and what the MTP depths see.
#pragma once

#include <cstdint>
#include <vector>

#include "model/deepseek.h"

namespace fathom::model {

// One training window of seq_length + 1 tokens.
struct Window {
  std::vector<int32_t> tokens;     // seq_length + 1
  std::vector<uint8_t> loss_mask;  // seq_length: 1 where the target tokens[i+1] is trained; empty: everywhere
  std::vector<int32_t> position_ids;  // seq_length; empty: 0, 1, 2, ...
  // First positions of the documents in the window, 0 included, ascending; empty: documents are not isolated.
  // seq_length itself may be listed: then the last target opens a new document.
  std::vector<int32_t> document_starts;
};

// Depth d (1-based) of MTP at position i reads token i+d and predicts token i+d+1; it is trained where the main loss
// trains that same target (loss_mask[i+d]) and, with documents isolated, where no document ends between i and i+d+1.
MicroBatch make_micro_batch(const std::vector<Window>& windows, int64_t num_nextn_predict_layers);

}  // namespace fathom::model

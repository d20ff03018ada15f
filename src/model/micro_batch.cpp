#include "model/micro_batch.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "base/error.h"
#include "ops/vocab_loss.h"

namespace fathom::model {
namespace {

// For each position of the window (seq_length + 1 of them) the start of its document.
std::vector<int32_t> starts_by_position(const Window& window) {
  std::vector<int32_t> starts(window.tokens.size(), 0);
  for (const int32_t first : window.document_starts)
    for (size_t i = static_cast<size_t>(std::max(first, 0)); i < starts.size(); ++i) starts[i] = first;
  return starts;
}

}  // namespace

MicroBatch make_micro_batch(const std::vector<Window>& windows, int64_t num_nextn_predict_layers) {
  FATHOM_ASSERT(!windows.empty());
  const auto B = static_cast<int64_t>(windows.size()), S = static_cast<int64_t>(windows[0].tokens.size()) - 1;
  const at::TensorOptions int64_options = at::TensorOptions().dtype(at::kLong);
  MicroBatch batch;
  batch.num_sequences = B;
  batch.seq_length = S;
  batch.tokens = at::empty({B * S}, int64_options);
  batch.targets = at::empty({B * S}, int64_options);
  batch.position_ids = at::empty({B * S}, int64_options);
  const bool isolated =
      std::any_of(windows.begin(), windows.end(), [](const Window& w) { return !w.document_starts.empty(); });
  if (isolated) batch.document_start = at::empty({B * S}, at::TensorOptions().dtype(at::kInt));
  for (int64_t d = 0; d < num_nextn_predict_layers; ++d) {
    batch.mtp_tokens.push_back(at::empty({B * S}, int64_options));
    batch.mtp_targets.push_back(at::empty({B * S}, int64_options));
  }
  for (int64_t b = 0; b < B; ++b) {
    const Window& window = windows[static_cast<size_t>(b)];
    FATHOM_ASSERT(static_cast<int64_t>(window.tokens.size()) == S + 1);
    const std::vector<int32_t> starts = starts_by_position(window);
    const auto row = [&](const at::Tensor& t) { return t.mutable_data_ptr<int64_t>() + b * S; };
    // The target at position i is token i+1; trained where the mask says so and it stands in the same document.
    const auto trained = [&](int64_t i) {
      return window.loss_mask.empty() || window.loss_mask[static_cast<size_t>(i)] != 0;
    };
    for (int64_t i = 0; i < S; ++i) {
      row(batch.tokens)[i] = window.tokens[static_cast<size_t>(i)];
      row(batch.targets)[i] = trained(i) ? window.tokens[static_cast<size_t>(i + 1)] : ops::kIgnoreTarget;
      row(batch.position_ids)[i] =
          window.position_ids.empty() ? i : window.position_ids[static_cast<size_t>(i)];
      if (isolated)
        batch.document_start.mutable_data_ptr<int32_t>()[b * S + i] = starts[static_cast<size_t>(i)];
    }
    for (int64_t d = 1; d <= num_nextn_predict_layers; ++d) {
      int64_t* tokens = row(batch.mtp_tokens[static_cast<size_t>(d - 1)]);
      int64_t* targets = row(batch.mtp_targets[static_cast<size_t>(d - 1)]);
      for (int64_t i = 0; i < S; ++i) {
        const bool has_token = i + d <= S && (!isolated || starts[static_cast<size_t>(i + d)] <= i);
        const bool has_target =
            i + d < S && trained(i + d) && (!isolated || starts[static_cast<size_t>(i + d + 1)] <= i);
        tokens[i] = has_token ? window.tokens[static_cast<size_t>(i + d)] : 0;
        targets[i] = has_target ? window.tokens[static_cast<size_t>(i + d + 1)] : ops::kIgnoreTarget;
      }
    }
  }
  return batch;
}

}  // namespace fathom::model

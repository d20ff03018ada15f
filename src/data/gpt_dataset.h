// Training windows over one indexed dataset in megatron-core's exact order (its GPTDataset): the sequences of
// every epoch are shuffled and laid end to end, windows of seq_length + 1 tokens are cut at every
// seq_length-th token, and the windows are shuffled. If the last epoch gives less than 80 % of an epoch's
// windows, it is shuffled by itself, so that the epochs before it are seen whole first. Everything is a
// function of (dataset, range, num_samples, seq_length, seed): sample k can be read at any time, from any
// thread, and nothing is written to disk. Memory: 16 bytes a window and 4 a sequence and epoch.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/split.h"
#include "formats/indexed_dataset.h"

namespace fathom::data {

struct GptDatasetOptions {
  SequenceRange range;      // the sequences to draw from
  int64_t num_samples = 0;  // at least so many windows, over as many epochs as that takes; 0: one epoch
  int64_t seq_length = 0;
  uint32_t seed = 0;
};

class GptDataset {
 public:
  // Throws DataError: too few tokens for one window (with the numbers), over 2^31 sequences.
  GptDataset(std::shared_ptr<const formats::IndexedDataset> dataset, const GptDatasetOptions& options);

  int64_t size() const { return static_cast<int64_t>(shuffle_index_.size()); }
  int64_t num_epochs() const { return num_epochs_; }
  int64_t tokens_per_epoch() const { return tokens_per_epoch_; }
  bool has_separate_last_epoch() const { return separate_last_epoch_; }
  const formats::IndexedDataset& dataset() const { return *dataset_; }

  // seq_length + 1 token ids into `out`. Throws DataError naming file, document, byte: an id not in [0,
  // vocab_size).
  void read(int64_t index, int64_t vocab_size, int32_t* out) const;

  // Megatron's three indices, for tests: sequence ids of all epochs; (position in the former, token offset)
  // where each window begins, one more than windows; order of the windows.
  const std::vector<int32_t>& document_index() const { return document_index_; }
  struct WindowStart {
    int64_t position = 0;
    int64_t offset = 0;
    bool operator==(const WindowStart&) const = default;
  };
  const std::vector<WindowStart>& sample_index() const { return sample_index_; }
  const std::vector<uint32_t>& shuffle_index() const { return shuffle_index_; }

 private:
  void build_sample_index(int64_t num_windows);
  std::shared_ptr<const formats::IndexedDataset> dataset_;
  GptDatasetOptions options_;
  int64_t tokens_per_epoch_ = 0, num_epochs_ = 1;
  bool separate_last_epoch_ = false;
  std::vector<int32_t> document_index_;
  std::vector<WindowStart> sample_index_;
  std::vector<uint32_t> shuffle_index_;
};

}  // namespace fathom::data

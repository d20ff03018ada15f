// Training windows over one indexed dataset in megatron-core's exact order (its GPTDataset): the sequences of
// every epoch are shuffled and laid end to end, windows of seq_length + 1 tokens are cut at every
// seq_length-th token, and the windows are shuffled. If the last epoch gives less than 80 % of an epoch's
// windows, it is shuffled by itself, so that the epochs before it are seen whole first. Everything is a
// function of (dataset, range, num_samples, seq_length, seed): sample k can be read at any time, from any
// thread. Memory: 20 bytes a window and 4 a sequence and epoch; with a cache they are mapped from its file.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/index_cache.h"
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
  GptDataset(std::shared_ptr<const formats::IndexedDataset> dataset, const GptDatasetOptions& options,
             const IndexCache& cache = {});

  int64_t size() const { return static_cast<int64_t>(shuffle_index_.size()); }
  int64_t num_epochs() const { return num_epochs_; }
  int64_t tokens_per_epoch() const { return tokens_per_epoch_; }
  bool has_separate_last_epoch() const { return separate_last_epoch_; }
  const formats::IndexedDataset& dataset() const { return *dataset_; }

  // seq_length + 1 token ids into `out`. Throws DataError naming file, document, byte: an id not in [0,
  // vocab_size).
  void read(int64_t index, int64_t vocab_size, int32_t* out) const;

  // The pieces of sequences that window `index` is made of, in order.
  struct Piece {
    int64_t document = 0, sequence = 0;
    int64_t begin = 0, count = 0;  // tokens of the sequence
  };
  std::vector<Piece> pieces(int64_t index) const;

  // Megatron's three indices: sequence ids of all epochs; (position in the former, token offset) where each
  // window begins, one more than windows; order of the windows.
  std::span<const int32_t> document_index() const { return document_index_; }
  struct WindowStart {
    int64_t position = 0;
    int64_t offset = 0;
    bool operator==(const WindowStart&) const = default;
  };
  std::span<const WindowStart> sample_index() const { return sample_index_; }
  std::span<const uint32_t> shuffle_index() const { return shuffle_index_; }
  bool is_from_cache() const { return from_cache_; }

 private:
  struct Built {
    std::vector<int32_t> document_index;
    std::vector<WindowStart> sample_index;
    std::vector<uint32_t> shuffle_index;
  };
  Built build(int64_t num_windows, int64_t windows_before_last) const;
  void build_sample_index(int64_t num_windows, Built& built) const;
  std::string description(int64_t num_windows) const;
  bool map(const IndexCache& cache, const std::string& description, int64_t num_windows);
  // fn(sequence, first token, count) over the pieces of a window.
  template <typename Function>
  void each_piece(int64_t index, Function&& fn) const;

  std::shared_ptr<const formats::IndexedDataset> dataset_;
  GptDatasetOptions options_;
  int64_t tokens_per_epoch_ = 0, num_epochs_ = 1;
  bool separate_last_epoch_ = false, from_cache_ = false;
  Built built_;                             // empty where the arrays are mapped
  std::optional<IndexCache::Entry> entry_;  // the mapped ones
  std::span<const int32_t> document_index_;
  std::span<const WindowStart> sample_index_;
  std::span<const uint32_t> shuffle_index_;
};

}  // namespace fathom::data

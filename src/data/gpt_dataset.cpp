#include "data/gpt_dataset.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "data/numpy_random.h"

namespace fathom::data {
namespace {

constexpr double kSeparateBelow = 0.80;  // of an epoch's windows, as Megatron

void append_epochs(const SequenceRange& range, int64_t num_epochs, NumpyRandomState& random,
                   std::vector<int32_t>& index) {
  const size_t first = index.size();
  for (int64_t epoch = 0; epoch < num_epochs; ++epoch)
    for (int64_t sequence = range.begin; sequence < range.end; ++sequence)
      index.push_back(static_cast<int32_t>(sequence));
  random.shuffle(std::span(index).subspan(first));
}

// The document of a sequence, for messages.
int64_t document_of(const formats::IndexedDataset& dataset, int64_t sequence) {
  int64_t low = 0, high = dataset.num_documents();
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (dataset.document_begin(middle) <= sequence ? low : high) = middle;
  }
  return low;
}

}  // namespace

GptDataset::GptDataset(std::shared_ptr<const formats::IndexedDataset> dataset,
                       const GptDatasetOptions& options)
    : dataset_(std::move(dataset)), options_(options) {
  const SequenceRange& range = options_.range;
  const int64_t seq_length = options_.seq_length;
  const std::string name = dataset_->prefix().string();
  FATHOM_ASSERT(seq_length >= 1 && range.begin >= 0 && range.end <= dataset_->num_sequences());
  if (range.end > std::numeric_limits<int32_t>::max())
    throw DataError(
        "{}: {} sequences are more than the 2147483647 that sample indices can number: split the dataset",
        name, range.end);
  for (int64_t i = range.begin; i < range.end; ++i) tokens_per_epoch_ += dataset_->sequence_length(i);
  if (tokens_per_epoch_ == 0 || (options_.num_samples <= 0 && tokens_per_epoch_ <= seq_length))
    throw DataError(
        "{}: sequences {} to {} hold {} tokens; one sample of seq_length {} needs {}: lower seq_length or "
        "give more data",
        name, range.begin, range.end, tokens_per_epoch_, seq_length, seq_length + 1);

  if (options_.num_samples > 0) {
    if (options_.num_samples > (std::numeric_limits<int64_t>::max() - 1) / seq_length - tokens_per_epoch_)
      throw DataError("{}: {} samples of {} tokens overflow", name, options_.num_samples, seq_length);
    const int64_t wanted = options_.num_samples * seq_length + 1;
    num_epochs_ = std::max<int64_t>(1, (wanted + tokens_per_epoch_ - 1) / tokens_per_epoch_);
  }
  const int64_t num_windows = (num_epochs_ * tokens_per_epoch_ - 1) / seq_length;
  if (num_windows >= std::numeric_limits<uint32_t>::max() - 1)
    throw DataError("{}: {} samples are more than one dataset can number (4294967293)", name, num_windows);

  int64_t windows_before_last = num_windows;
  if (num_epochs_ > 1) {
    const int64_t before = ((num_epochs_ - 1) * tokens_per_epoch_ - 1) / seq_length;
    const int64_t from_last = options_.num_samples - before;
    const int64_t per_epoch = (tokens_per_epoch_ - 1) / seq_length;
    separate_last_epoch_ = from_last < static_cast<int64_t>(kSeparateBelow * static_cast<double>(per_epoch));
    if (separate_last_epoch_) windows_before_last = before;
  }

  NumpyRandomState random(options_.seed);
  document_index_.reserve(static_cast<size_t>(num_epochs_ * range.size()));
  append_epochs(range, separate_last_epoch_ ? num_epochs_ - 1 : num_epochs_, random, document_index_);
  if (separate_last_epoch_) append_epochs(range, 1, random, document_index_);

  build_sample_index(num_windows);

  shuffle_index_.resize(static_cast<size_t>(num_windows));
  std::iota(shuffle_index_.begin(), shuffle_index_.end(), 0u);
  const auto all = std::span(shuffle_index_);
  random.shuffle(all.first(static_cast<size_t>(windows_before_last)));
  if (windows_before_last < num_windows)
    random.shuffle(all.subspan(static_cast<size_t>(windows_before_last)));
}

void GptDataset::build_sample_index(int64_t num_windows) {
  sample_index_.reserve(static_cast<size_t>(num_windows) + 1);
  WindowStart at;
  sample_index_.push_back(at);
  for (int64_t window = 0; window < num_windows; ++window) {
    int64_t wanted = options_.seq_length + 1;
    while (true) {
      const int64_t left =
          dataset_->sequence_length(document_index_[static_cast<size_t>(at.position)]) - at.offset;
      if (left >= wanted) {
        at.offset += wanted - 1;  // the last token begins the next window
        break;
      }
      wanted -= left;
      at = {at.position + 1, 0};
    }
    sample_index_.push_back(at);
  }
}

void GptDataset::read(int64_t index, int64_t vocab_size, int32_t* out) const {
  FATHOM_ASSERT(index >= 0 && index < size());
  WindowStart at = sample_index_[shuffle_index_[static_cast<size_t>(index)]];
  for (int64_t wanted = options_.seq_length + 1; wanted > 0; at = {at.position + 1, 0}) {
    const int64_t sequence = document_index_[static_cast<size_t>(at.position)];
    const int64_t count = std::min(wanted, dataset_->sequence_length(sequence) - at.offset);
    dataset_->read(sequence, at.offset, count, out);
    for (int64_t i = 0; i < count; ++i)
      if (out[i] < 0 || out[i] >= vocab_size)
        throw DataError(
            "{}: document {}, sequence {}, token {} (byte {}): id {} is outside the model's vocabulary of "
            "{}: "
            "the data was made with another tokenizer",
            dataset_->bin_path(), document_of(*dataset_, sequence), sequence, at.offset + i,
            dataset_->sequence_pointer(sequence) +
                (at.offset + i) * formats::token_type_bytes(dataset_->type()),
            out[i], vocab_size);
    out += count;
    wanted -= count;
  }
}

}  // namespace fathom::data

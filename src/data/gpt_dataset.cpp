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
  const size_t first = index.size(), count = static_cast<size_t>(range.size());
  index.resize(first + static_cast<size_t>(num_epochs) * count);
  const auto added = std::span(index).subspan(first);
  for (size_t at = 0; at < added.size(); at += count)
    std::iota(added.begin() + static_cast<std::ptrdiff_t>(at),
              added.begin() + static_cast<std::ptrdiff_t>(at + count), static_cast<int32_t>(range.begin));
  random.shuffle(added);
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

template <typename T>
std::span<const T> as(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

}  // namespace

GptDataset::GptDataset(std::shared_ptr<const formats::IndexedDataset> dataset,
                       const GptDatasetOptions& options, const IndexCache& cache)
    : dataset_(std::move(dataset)), options_(options) {
  const SequenceRange& range = options_.range;
  const int64_t seq_length = options_.seq_length;
  const std::string name = dataset_->prefix().string();
  FATHOM_ASSERT(seq_length >= 1 && range.begin >= 0 && range.end <= dataset_->num_sequences());
  if (range.end > std::numeric_limits<int32_t>::max())
    throw DataError(
        "{}: {} sequences are more than the 2147483647 that sample indices can number: split the dataset",
        name, range.end);
  if (!range.empty())  // the pointers are the running sum of the lengths
    tokens_per_epoch_ =
        (dataset_->sequence_pointer(range.end - 1) - dataset_->sequence_pointer(range.begin)) /
            formats::token_type_bytes(dataset_->type()) +
        dataset_->sequence_length(range.end - 1);
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

  const std::string key = cache ? description(num_windows) : "";
  from_cache_ = map(cache, key, num_windows);
  if (from_cache_) return;
  built_ = build(num_windows, windows_before_last);
  document_index_ = built_.document_index;
  sample_index_ = built_.sample_index;
  shuffle_index_ = built_.shuffle_index;
  if (!cache) return;
  const std::span<const std::byte> arrays[] = {std::as_bytes(document_index_), std::as_bytes(sample_index_),
                                               std::as_bytes(shuffle_index_)};
  cache.store(key, arrays);
  if (map(cache, key, num_windows)) built_ = {};  // the same, but shared with other processes
}

// All that decides the three arrays. The .idx stands for the dataset: no token's value matters.
std::string GptDataset::description(int64_t num_windows) const {
  return fmt::format(
      "sample index of one dataset\nindex hash {:016x}, sequences {}, tokens {}\nsequences {} to {}\n"
      "seq_length {}\nseed {}\nepochs {}, last one apart {}\nwindows {}\n",
      dataset_->index_hash(), dataset_->num_sequences(), dataset_->num_tokens(), options_.range.begin,
      options_.range.end, options_.seq_length, options_.seed, num_epochs_, separate_last_epoch_, num_windows);
}

bool GptDataset::map(const IndexCache& cache, const std::string& description, int64_t num_windows) {
  auto entry = cache.find(description);
  if (!entry || entry->arrays.size() != 3) return false;
  const auto documents = as<int32_t>(entry->arrays[0]);
  const auto samples = as<WindowStart>(entry->arrays[1]);
  const auto shuffle = as<uint32_t>(entry->arrays[2]);
  if (static_cast<int64_t>(documents.size()) != num_epochs_ * options_.range.size() ||
      static_cast<int64_t>(samples.size()) != num_windows + 1 ||
      static_cast<int64_t>(shuffle.size()) != num_windows)
    return false;
  document_index_ = documents;
  sample_index_ = samples;
  shuffle_index_ = shuffle;
  entry_ = std::move(entry);
  return true;
}

GptDataset::Built GptDataset::build(int64_t num_windows, int64_t windows_before_last) const {
  Built built;
  NumpyRandomState random(options_.seed);
  const SequenceRange& range = options_.range;
  built.document_index.reserve(static_cast<size_t>(num_epochs_ * range.size()));
  append_epochs(range, separate_last_epoch_ ? num_epochs_ - 1 : num_epochs_, random, built.document_index);
  if (separate_last_epoch_) append_epochs(range, 1, random, built.document_index);

  build_sample_index(num_windows, built);

  built.shuffle_index.resize(static_cast<size_t>(num_windows));
  std::iota(built.shuffle_index.begin(), built.shuffle_index.end(), 0u);
  const auto all = std::span(built.shuffle_index);
  random.shuffle(all.first(static_cast<size_t>(windows_before_last)));
  if (windows_before_last < num_windows)
    random.shuffle(all.subspan(static_cast<size_t>(windows_before_last)));
  return built;
}

void GptDataset::build_sample_index(int64_t num_windows, Built& built) const {
  built.sample_index.reserve(static_cast<size_t>(num_windows) + 1);
  const std::span<const int32_t> documents = built.document_index;
  constexpr size_t kAhead = 24;  // lengths are read in random order: ask for them before they are needed
  const std::byte* lengths = dataset_->lengths_bytes().data();
  WindowStart at;
  built.sample_index.push_back(at);
  for (int64_t window = 0; window < num_windows; ++window) {
    int64_t wanted = options_.seq_length + 1;
    while (true) {
      const auto position = static_cast<size_t>(at.position);
      if (position + kAhead < documents.size())
        __builtin_prefetch(lengths + 4 * static_cast<size_t>(documents[position + kAhead]));
      const int64_t left = dataset_->sequence_length(documents[position]) - at.offset;
      if (left >= wanted) {
        at.offset += wanted - 1;  // the last token begins the next window
        break;
      }
      wanted -= left;
      at = {at.position + 1, 0};
    }
    built.sample_index.push_back(at);
  }
}

template <typename Function>
void GptDataset::each_piece(int64_t index, Function&& fn) const {
  FATHOM_ASSERT(index >= 0 && index < size());
  // The bounds hold for what is computed here; a cache file could have been made to lie.
  const auto refuse = [&] {
    throw DataError("{}: it holds an index that does not fit the dataset; delete it",
                    entry_ ? entry_->file.path().string() : dataset_->prefix().string());
  };
  const uint32_t window = shuffle_index_[static_cast<size_t>(index)];
  if (window >= shuffle_index_.size()) refuse();
  WindowStart at = sample_index_[window];
  for (int64_t wanted = options_.seq_length + 1; wanted > 0; at = {at.position + 1, 0}) {
    if (at.position < 0 || at.position >= static_cast<int64_t>(document_index_.size())) refuse();
    const int64_t sequence = document_index_[static_cast<size_t>(at.position)];
    if (sequence < options_.range.begin || sequence >= options_.range.end) refuse();
    const int64_t length = dataset_->sequence_length(sequence);
    if (at.offset < 0 || at.offset > length) refuse();
    const int64_t count = std::min(wanted, length - at.offset);
    fn(sequence, at.offset, count);
    wanted -= count;
  }
}

std::vector<GptDataset::Piece> GptDataset::pieces(int64_t index) const {
  std::vector<Piece> pieces;
  each_piece(index, [&](int64_t sequence, int64_t begin, int64_t count) {
    if (count > 0) pieces.push_back({document_of(*dataset_, sequence), sequence, begin, count});
  });
  return pieces;
}

void GptDataset::read(int64_t index, int64_t vocab_size, int32_t* out) const {
  each_piece(index, [&](int64_t sequence, int64_t begin, int64_t count) {
    dataset_->read(sequence, begin, count, out);
    for (int64_t i = 0; i < count; ++i)
      if (out[i] < 0 || out[i] >= vocab_size)
        throw DataError(
            "{}: document {}, sequence {}, token {} (byte {}): id {} is outside the model's vocabulary of "
            "{}: the data was made with another tokenizer",
            dataset_->bin_path(), document_of(*dataset_, sequence), sequence, begin + i,
            dataset_->sequence_pointer(sequence) + (begin + i) * formats::token_type_bytes(dataset_->type()),
            out[i], vocab_size);
    out += count;
  });
}

}  // namespace fathom::data

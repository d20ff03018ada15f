#include "data/validate.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "base/stop_signal.h"
#include "data/builder.h"
#include "formats/indexed_dataset.h"

namespace fathom::data {
namespace {

using formats::IndexedDataset;
using formats::TokenType;

constexpr int64_t kChunkBytes = 8 << 20;
constexpr size_t kPageBytes = 4096;

// Lets the kernel map a chunk at once instead of by a fault every few pages. A hint: errors do not matter.
void populate(const std::byte* data, size_t bytes) {
#ifdef MADV_POPULATE_READ
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = address / kPageBytes * kPageBytes;
  ::madvise(reinterpret_cast<void*>(begin), address - begin + bytes, MADV_POPULATE_READ);
#else
  (void)data, (void)bytes;
#endif
}

// The largest of `count` values as unsigned ones of their width, so that negative ids are large too.
template <typename Unsigned>
uint64_t largest_of(const std::byte* from, int64_t count) {
  constexpr int64_t kLanes = 64 / sizeof(Unsigned);
  Unsigned lanes[kLanes] = {}, values[kLanes];
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    std::memcpy(values, from + static_cast<size_t>(i) * sizeof(Unsigned), sizeof values);
    for (int64_t k = 0; k < kLanes; ++k) lanes[k] = std::max(lanes[k], values[k]);
  }
  Unsigned largest = *std::max_element(lanes, lanes + kLanes);
  for (; i < count; ++i) {
    std::memcpy(values, from + static_cast<size_t>(i) * sizeof(Unsigned), sizeof(Unsigned));
    largest = std::max(largest, values[0]);
  }
  return largest;
}

uint64_t largest_of(TokenType type, const std::byte* from, int64_t count) {
  switch (formats::token_type_bytes(type)) {
    case 1:
      return largest_of<uint8_t>(from, count);
    case 2:
      return largest_of<uint16_t>(from, count);
    case 4:
      return largest_of<uint32_t>(from, count);
    default:
      return largest_of<uint64_t>(from, count);
  }
}

// The value as the type has it, signed.
int64_t value_at(TokenType type, const std::byte* from) {
  const auto load = [&](auto value) {
    std::memcpy(&value, from, sizeof value);
    return static_cast<int64_t>(value);
  };
  switch (type) {
    case TokenType::uint8:
      return load(uint8_t{});
    case TokenType::int8:
      return load(int8_t{});
    case TokenType::int16:
      return load(int16_t{});
    case TokenType::uint16:
      return load(uint16_t{});
    case TokenType::int64:
      return load(int64_t{});
    default:
      return load(int32_t{});
  }
}

class Validator {
 public:
  explicit Validator(const ValidateOptions& options) : dataset_(options.prefix), type_(dataset_.type()) {
    if (type_ == TokenType::float32 || type_ == TokenType::float64)
      throw DataError("{}: it holds {} values, not token ids", dataset_.bin_path(), token_type_name(type_));
    item_ = formats::token_type_bytes(type_);
    const auto metadata = read_dataset_metadata(options.prefix);
    report_.vocab_size = options.vocab_size;
    if (metadata) {
      const bool of_documents = check_metadata();
      if (report_.vocab_size == 0) report_.vocab_size = metadata->vocab_size;
      if (metadata->append_eod && of_documents) report_.eod_id = metadata->eod_id;
    }
    highest_ = report_.vocab_size > 0 ? report_.vocab_size - 1 : std::numeric_limits<int32_t>::max();
    // Ids are compared as unsigned values of the type's width: negative ones are the upper half of a signed type.
    const bool is_signed = type_ != TokenType::uint8 && type_ != TokenType::uint16;
    const int bits = static_cast<int>(8 * item_) - (is_signed ? 1 : 0);
    if (bits < 63) highest_ = std::min(highest_, (int64_t{1} << bits) - 1);
  }

  ValidateReport run() {
    report_.documents = dataset_.num_documents();
    report_.sequences = dataset_.num_sequences();
    report_.tokens = dataset_.num_tokens();
    const auto bin_bytes = static_cast<uint64_t>(report_.tokens * item_);
    report_.bytes = bin_bytes + std::filesystem::file_size(dataset_.prefix().string() + ".idx");
    if (report_.tokens > 0) data_ = dataset_.sequence_bytes(0).data();
    Progress progress("validating", bin_bytes, "B");
    const int64_t chunk = kChunkBytes / item_, chunks = (report_.tokens + chunk - 1) / chunk;
    first_bad_ = chunks;
    parallel_tasks(chunks, [&](int64_t task) {
      if (task > first_bad_ || stop_requested()) return;
      const int64_t begin = task * chunk, end = std::min(report_.tokens, begin + chunk);
      check_tokens(task, begin, end);
      check_document_ends(task, begin, end);
      progress.advance(static_cast<uint64_t>((end - begin) * item_));
    });
    if (!fault_.empty()) throw DataError("{}", fault_);
    if (stop_requested()) throw Error("{}: stopped by a signal before the end", dataset_.bin_path());
    count_empty();
    progress.finish();
    report_.seconds = progress.seconds();
    report_.largest_id = report_.tokens > 0 ? static_cast<int32_t>(largest_.load()) : -1;
    return report_;
  }

 private:
  // Whether its documents are those of the corpus, not pieces of one length (data build --seq-length).
  bool check_metadata() const {
    const std::filesystem::path file = dataset_.prefix().string() + ".meta.json";
    const Json json = read_json_file(file);
    const std::pair<const char*, int64_t> counts[] = {{"documents", dataset_.num_documents()},
                                                      {"sequences", dataset_.num_sequences()},
                                                      {"tokens", dataset_.num_tokens()}};
    for (const auto& [key, count] : counts)
      if (json.contains(key) && json[key] != count)
        throw DataError("{}: it says {} {}, the dataset has {}: the files do not belong together",
                        file.string(), json[key].dump(), key, count);
    return json.value("seq_length", Json(0)) == 0;
  }

  void check_tokens(int64_t task, int64_t begin, int64_t end) {
    const std::byte* from = data_ + begin * item_;
    populate(from, static_cast<size_t>((end - begin) * item_));
    const uint64_t largest = largest_of(type_, from, end - begin);
    if (largest > static_cast<uint64_t>(highest_)) {
      int64_t token = begin;
      while (largest_of(type_, data_ + token * item_, 1) <= static_cast<uint64_t>(highest_)) ++token;
      const int64_t id = value_at(type_, data_ + token * item_);
      fail(
          task, token,
          id < 0 || report_.vocab_size == 0
              ? fmt::format("id {} is no token id", id)
              : fmt::format("id {} is outside the vocabulary of {}: the data was made with another tokenizer",
                            id, report_.vocab_size));
      return;
    }
    uint64_t seen = largest_.load();
    while (largest > seen && !largest_.compare_exchange_weak(seen, largest)) {
    }
  }

  int64_t document_end(int64_t document) const {  // in tokens
    const int64_t sequence = dataset_.document_begin(document + 1);
    return sequence == dataset_.num_sequences() ? dataset_.num_tokens()
                                                : dataset_.sequence_pointer(sequence) / item_;
  }

  // Of the documents whose last token lies in [begin, end).
  void check_document_ends(int64_t task, int64_t begin, int64_t end) {
    if (report_.eod_id < 0) return;
    int64_t low = 0, high = dataset_.num_documents();
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (document_end(middle) <= begin)
        low = middle + 1;
      else
        high = middle;
    }
    int64_t before = low > 0 ? document_end(low - 1) : 0;
    for (int64_t d = low; d < dataset_.num_documents(); ++d) {
      const int64_t last = document_end(d);
      if (last > end) return;
      if (last != std::exchange(before, last) &&
          value_at(type_, data_ + (last - 1) * item_) != report_.eod_id) {
        fail(task, last - 1,
             fmt::format(
                 "document {} ends with id {}, not with the end-of-document id {} as its .meta.json says", d,
                 value_at(type_, data_ + (last - 1) * item_), report_.eod_id));
        return;
      }
    }
  }

  // Of several faults the first in the file is kept.
  void fail(int64_t task, int64_t token, const std::string& what) {
    std::lock_guard lock(mutex_);
    if (token >= fault_token_) return;
    fault_token_ = token;
    first_bad_ = std::min(first_bad_.load(), task);
    int64_t low = 0, high = dataset_.num_sequences();
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      (dataset_.sequence_pointer(middle) <= token * item_ ? low : high) = middle;
    }
    fault_ = fmt::format("{}: sequence {}, token {} (byte {}): {}", dataset_.bin_path(), low,
                         token - dataset_.sequence_pointer(low) / item_, token * item_, what);
  }

  void count_empty() {
    for (int64_t s = 0; s < report_.sequences; ++s)
      report_.empty_sequences += dataset_.sequence_length(s) == 0;
    for (int64_t d = 0; d < report_.documents; ++d)
      report_.empty_documents += dataset_.document_begin(d) == dataset_.document_begin(d + 1);
  }

  const IndexedDataset dataset_;
  const TokenType type_;
  int64_t item_ = 1, highest_ = 0;
  const std::byte* data_ = nullptr;
  ValidateReport report_;
  std::atomic<uint64_t> largest_{0};
  std::atomic<int64_t> first_bad_{0};  // chunks after it need no look
  std::mutex mutex_;
  int64_t fault_token_ = std::numeric_limits<int64_t>::max();
  std::string fault_;
};

}  // namespace

ValidateReport validate_dataset(const ValidateOptions& options) { return Validator(options).run(); }

}  // namespace fathom::data

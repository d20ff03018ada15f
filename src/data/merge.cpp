#include "data/merge.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/leftovers.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/random.h"
#include "base/stop_signal.h"
#include "data/split.h"
#include "formats/indexed_dataset.h"

namespace fathom::data {
namespace {

using formats::IndexedDataset;

constexpr uint64_t kCopyBytes = 256u << 20;  // between looks at the stop signal
constexpr int64_t kBlockValues = 1 << 18;    // of an index array
constexpr int64_t kDocumentsBetweenLooks = 4096;

uint64_t bin_bytes(const IndexedDataset& dataset) {
  return static_cast<uint64_t>(dataset.num_tokens() * formats::token_type_bytes(dataset.type()));
}

uint64_t idx_bytes(const IndexedDataset& dataset) {
  return static_cast<uint64_t>(12 * dataset.num_sequences() + 8 * dataset.num_documents()) +
         dataset.modes_bytes().size();
}

// Keys of .meta.json that must agree: ids mean the same, and documents end the same way.
constexpr const char* kMustAgree[] = {"tokenizer_fingerprint", "vocab_size", "eod_id", "append_eod",
                                      "seq_length"};

class Merger {
 public:
  explicit Merger(const MergeOptions& options) : options_(options) {
    if (options_.inputs.empty()) throw UsageError("give at least one dataset to merge");
    if (options_.output_prefix.filename().empty())
      throw UsageError("--output-prefix {}: no name after the directory", options_.output_prefix.string());
    output_ = formats::dataset_prefix(options_.output_prefix);
    if (!options_.split.empty()) split_ranges(options_.split, 1);
    for (const auto& path : options_.inputs) {
      inputs_.push_back(std::make_unique<IndexedDataset>(path));
      for (const auto& prefix : output_prefixes())
        if (same_file(inputs_.back()->bin_path(), prefix.string() + ".bin"))
          throw UsageError("--output-prefix {}: it is one of the inputs; choose another name",
                           options_.output_prefix.string());
    }
    check_types();
    merge_metadata();
  }

  MergeReport run() {
    const auto directory = output_.parent_path();
    if (!directory.empty()) make_directories(directory);
    for (const auto& prefix : output_prefixes())
      for (const char* extension : {".bin", ".idx", ".meta.json"})
        remove_dead_temporaries(prefix.string() + extension);
    uint64_t total = 0, index = 0;
    for (const auto& input : inputs_) {
      total += bin_bytes(*input);
      index += idx_bytes(*input);
    }
    const uint64_t free = free_disk_bytes(directory.empty() ? "." : directory);
    if (free < total + index)
      throw FileError("{}: the result takes {}, the file system has {} free: choose another place",
                      output_.string(), format_bytes(static_cast<double>(total + index)),
                      format_bytes(static_cast<double>(free)));
    Progress progress("merging", total, "B");
    progress_ = &progress;
    if (options_.shuffle_seed || !options_.split.empty())
      by_documents();
    else
      whole();
    progress.finish();
    report_.seconds = progress.seconds();
    return std::move(report_);
  }

 private:
  static bool same_file(const std::filesystem::path& a, const std::filesystem::path& b) {
    std::error_code ignored;
    return std::filesystem::equivalent(a, b, ignored);
  }

  std::vector<std::filesystem::path> output_prefixes() const {
    if (options_.split.empty()) return {output_};
    std::vector<std::filesystem::path> prefixes;
    for (const Split split : {Split::train, Split::valid, Split::test})
      prefixes.emplace_back(output_.string() + "_" + split_name(split));
    return prefixes;
  }

  void check_types() {
    const IndexedDataset& first = *inputs_[0];
    for (const auto& input : inputs_) {
      if (input->type() != first.type())
        throw DataError("{} holds {} values, {} {}: they cannot be joined; build one of them again",
                        first.bin_path(), token_type_name(first.type()), input->bin_path(),
                        token_type_name(input->type()));
      if (input->num_sequences() == 0) continue;
      if (!modes_of_) modes_of_ = input.get();
      if (input->has_modes() != modes_of_->has_modes())
        throw DataError("{} is multimodal (it has modes), {} is not: they cannot be joined",
                        (input->has_modes() ? *input : *modes_of_).bin_path(),
                        (input->has_modes() ? *modes_of_ : *input).bin_path());
    }
    if (modes_of_ && modes_of_->has_modes() && (options_.shuffle_seed || !options_.split.empty()))
      throw DataError("{} is multimodal (it has modes): it can be merged, but not shuffled or split",
                      modes_of_->bin_path());
  }

  // One .meta.json of all: what must agree does, counts are sums, lists follow each other, and what differs
  // otherwise is left out.
  void merge_metadata() {
    std::string named;  // the first input that has one
    const IndexedDataset* without = nullptr;
    for (const auto& input : inputs_) {
      const std::filesystem::path file = input->prefix().string() + ".meta.json";
      if (!std::filesystem::exists(file)) {
        without = input.get();
        continue;
      }
      Json next = read_json_file(file);
      if (!next.is_object()) throw ConfigError("{}: not what fathom data build writes", file.string());
      if (next.value("kind", Json()) == "sft")
        throw DataError(
            "{}: it is fine-tuning data, whose loss mask and rows would be lost: give all inputs to one "
            "fathom data "
            "sft, with weights where they matter",
            input->prefix().string());
      if (named.empty()) {
        named = file.string();
        meta_ = std::move(next);
        continue;
      }
      for (const char* key : kMustAgree) {
        if (next.value(key, Json()) == meta_.value(key, Json())) continue;
        if (options_.any_tokenizer) {
          meta_ = Json();
          return;
        }
        throw DataError(
            "{} has {} {}, {} has {}: ids or document ends mean different things; build them with the same "
            "tokenizer and flags, or give --any-tokenizer",
            named, key, meta_.value(key, Json()).dump(), file.string(), next.value(key, Json()).dump());
      }
      add_metadata(next);
    }
    if (!without || named.empty()) return;
    if (!options_.any_tokenizer)
      throw DataError(
          "{}.meta.json is missing, so its tokenizer is unknown, while {} names one: copy it too, or give "
          "--any-tokenizer",
          without->prefix().string(), named);
    meta_ = Json();
  }

  void add_metadata(const Json& next) {
    static constexpr const char* kCounts[] = {"documents", "sequences", "tokens", "skipped_documents"};
    for (const char* key : kCounts)
      if (meta_.contains(key) && next.contains(key) && next[key].is_number_integer())
        meta_[key] = meta_[key].get<int64_t>() + next[key].get<int64_t>();
    for (auto it = meta_.begin(); it != meta_.end();) {
      const std::string key = it.key();
      const bool kept =
          key == "tokenizer" || std::find(std::begin(kCounts), std::end(kCounts), key) != std::end(kCounts);
      const Json other = next.value(key, Json());
      if (it->is_array() && other.is_array())
        it->insert(it->end(), other.begin(), other.end());
      else if (!kept && *it != other) {
        it = meta_.erase(it);
        continue;
      }
      ++it;
    }
  }

  void look_at_signal() const {
    if (stop_requested()) throw Error("{}: stopped by a signal; nothing was written", output_.string());
  }

  void whole() {
    AtomicFile bin(output_.string() + ".bin");
    MergedDataset merged{output_};
    for (const auto& input : inputs_) {
      merged.documents += input->num_documents();
      merged.sequences += input->num_sequences();
      merged.tokens += input->num_tokens();
      const uint64_t bytes = bin_bytes(*input);
      for (uint64_t at = 0; at < bytes; at += kCopyBytes) {
        look_at_signal();
        const uint64_t count = std::min(kCopyBytes, bytes - at);
        bin.append_from(input->bin_path(), at, count);
        progress_->advance(count);
      }
    }
    AtomicFile idx(output_.string() + ".idx");
    write_index(idx, merged);
    look_at_signal();
    merged.bytes = bin.offset() + idx.offset();
    formats::commit_pair(output_, bin, idx, [&] { write_metadata(merged, meta_); });
    report_.outputs.push_back(merged);
  }

  void write_index(AtomicFile& idx, const MergedDataset& merged) const {
    const auto put = [&](auto value) { idx.write(&value, sizeof value); };
    formats::write_index_header(idx, inputs_[0]->type(), merged.sequences, merged.documents);
    for (const auto& input : inputs_) idx.write(input->lengths_bytes().data(), input->lengths_bytes().size());
    std::vector<int64_t> block;
    block.reserve(kBlockValues);
    const auto flush = [&](bool all) {
      if (!all && block.size() < kBlockValues) return;
      idx.write(block.data(), block.size() * sizeof(int64_t));
      block.clear();
    };
    int64_t shift = 0;
    for (const auto& input : inputs_) {
      for (int64_t i = 0; i < input->num_sequences(); ++i) {
        block.push_back(shift + input->sequence_pointer(i));
        flush(false);
      }
      shift += static_cast<int64_t>(bin_bytes(*input));
    }
    flush(true);
    put(int64_t{0});
    shift = 0;
    for (const auto& input : inputs_) {
      for (int64_t d = 1; d <= input->num_documents(); ++d) {
        block.push_back(shift + input->document_begin(d));
        flush(false);
      }
      shift += input->num_sequences();
    }
    flush(true);
    for (const auto& input : inputs_) idx.write(input->modes_bytes().data(), input->modes_bytes().size());
  }

  // The documents of all inputs in a row, numbered, in the order of the output.
  std::vector<int64_t> order() const {
    int64_t total = 0;
    for (const auto& input : inputs_) total += input->num_documents();
    std::vector<int64_t> order(static_cast<size_t>(total));
    std::iota(order.begin(), order.end(), int64_t{0});
    if (!options_.shuffle_seed) return order;
    const uint64_t key = stream_key(*options_.shuffle_seed, "data merge");
    for (size_t i = order.size(); i-- > 1;) {
      const auto j = static_cast<size_t>(uniform(key, i) * static_cast<double>(i + 1));
      std::swap(order[i], order[std::min(j, i)]);
    }
    return order;
  }

  void by_documents() {
    std::vector<int64_t> first{0};  // number of each input's first document
    for (const auto& input : inputs_) first.push_back(first.back() + input->num_documents());
    const std::vector<int64_t> documents = order();
    std::array<SequenceRange, 3> ranges{SequenceRange{0, first.back()}};
    const bool cut = !options_.split.empty();
    if (cut) ranges = split_ranges(options_.split, first.back());
    const auto prefixes = output_prefixes();
    std::vector<std::unique_ptr<formats::IndexedDatasetWriter>> writers;
    for (size_t part = 0; part < prefixes.size(); ++part) {
      const SequenceRange range = ranges[part];
      if (cut && range.empty()) continue;
      auto writer = std::make_unique<formats::IndexedDatasetWriter>(prefixes[part], inputs_[0]->type());
      uint64_t shown = 0;
      for (int64_t i = range.begin; i < range.end; ++i) {
        const int64_t number = documents[static_cast<size_t>(i)];
        const auto input =
            static_cast<size_t>(std::upper_bound(first.begin(), first.end(), number) - first.begin() - 1);
        writer->append_document(*inputs_[input], number - first[input]);
        if (i % kDocumentsBetweenLooks != 0 && i + 1 < range.end) continue;
        look_at_signal();
        const auto written =
            static_cast<uint64_t>(writer->num_tokens() * formats::token_type_bytes(inputs_[0]->type()));
        progress_->advance(written - std::exchange(shown, written));
      }
      report_.outputs.push_back(
          {prefixes[part], writer->num_documents(), writer->num_sequences(), writer->num_tokens(),
           shown + 34 +
               static_cast<uint64_t>(12 * writer->num_sequences() + 8 * (writer->num_documents() + 1))});
      writers.push_back(std::move(writer));
    }
    for (size_t i = 0; i < writers.size(); ++i) {
      Json meta = meta_;
      if (meta.is_object() && cut) meta.erase("skipped_documents");
      write_metadata(report_.outputs[i], std::move(meta));
      writers[i]->commit();
    }
  }

  // Before the .idx is in place: a dataset without its description would train with an unknown eod id.
  static void write_metadata(const MergedDataset& merged, Json meta) {
    const std::filesystem::path file = merged.prefix.string() + ".meta.json";
    if (!meta.is_object()) {
      std::error_code ignored;
      std::filesystem::remove(file, ignored);  // of an older dataset of this name
      return;
    }
    meta["documents"] = merged.documents;
    meta["sequences"] = merged.sequences;
    meta["tokens"] = merged.tokens;
    write_text_file(file, meta.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  }

  const MergeOptions& options_;
  std::filesystem::path output_;
  std::vector<std::unique_ptr<IndexedDataset>> inputs_;
  const IndexedDataset* modes_of_ = nullptr;  // an input that decides whether there are modes
  Json meta_;                                 // null: none
  Progress* progress_ = nullptr;
  MergeReport report_;
};

}  // namespace

MergeReport merge_datasets(const MergeOptions& options) { return Merger(options).run(); }

}  // namespace fathom::data

#include "data/builder.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "base/stop_signal.h"
#include "data/build_journal.h"
#include "data/build_output.h"
#include "data/corpus.h"
#include "data/split.h"
#include "data/text_cut.h"

namespace fathom::data {
namespace {

constexpr size_t kBatchBytes = 256 << 10;            // of text, read, encoded and written together
constexpr size_t kBytesInFlightPerWorker = 1 << 20;  // of text that is read and not written yet
constexpr size_t kShownErrors = 10;

// A batch of text on its way, and what was made of it.
struct Batch {
  int64_t number = 0;
  size_t bytes = 0;
  TextBatch text;
  std::vector<int32_t> tokens;
  struct Sequence {
    size_t end;     // in `tokens`
    bool is_ended;  // else the next unit goes on with it
  };
  std::vector<Sequence> sequences;
  struct Unit {
    size_t end = 0;  // in `sequences`
    std::string error = {};
  };
  std::vector<Unit> units;
};

class Builder {
 public:
  explicit Builder(const BuildOptions& options)
      : options_(options),
        tokenizer_(tokenizer::Tokenizer::load(options.tokenizer)),
        cutter_(tokenizer_, options.special_tokens),
        type_(formats::token_type_for_vocabulary(tokenizer_.vocab_size())) {
    const auto eos = tokenizer_.eos_id();
    if (options.append_eod && !eos)
      throw ConfigError(
          "{}: --append-eod needs an end-of-document id, and tokenizer_config.json beside it names no "
          "eos_token",
          tokenizer_.path().string());
    eod_id_ = eos.value_or(-1);
    if (!options_.split.empty())
      split_ranges(options_.split, 1);  // a bad split ends it here, not after hours
  }

  BuildReport run() {
    journal_ = std::make_unique<BuildJournal>(options_, tokenizer_);
    try {
      restore(journal_->load());
    } catch (const DataError& e) {
      log::warning("{}; starting afresh", e.what());
      journal_->forget();
      restore(Json());
    } catch (const nlohmann::json::exception& e) {
      log::warning("{}: {}; starting afresh", journal_->directory().string(), e.what());
      journal_->forget();
      restore(Json());
    }
    for (const auto& path : options_.inputs) total_file_bytes_ += std::filesystem::file_size(path);
    progress_ = std::make_unique<Progress>("tokenising", 0, "B");
    if (!is_complete_) {
      reader_ = std::make_unique<CorpusReader>(
          options_.inputs, options_.json_key, [this](std::string_view text) { return cutter_.find(text); },
          position_, report_.text_bytes);
      parallel_tasks(num_threads(), [this](int64_t) { work(); });
      if (stop_requested()) {
        save();
        throw Error("{}: stopped by a signal after {} of text; the same command goes on from there",
                    options_.output_prefix.string(), format_bytes(static_cast<double>(report_.text_bytes)));
      }
    }
    if (output_->num_documents() == 0) refuse_nothing();
    report_.dropped_tokens = output_->num_dropped_tokens();
    is_complete_ = true;
    save();
    publish();
    progress_->finish();
    journal_->remove();
    if (report_.skipped_documents > static_cast<int64_t>(kShownErrors))
      log::warning("{} documents were skipped, {} of them shown", report_.skipped_documents, kShownErrors);
    report_.seconds = progress_->seconds();
    return std::move(report_);
  }

 private:
  // --- a worker ---

  void work() {
    tokenizer::EncodeScratch scratch;
    JsonTextScanner scanner(options_.json_key);
    std::string text;
    try {
      while (std::unique_ptr<Batch> batch = take()) {
        encode(*batch, scratch, scanner, text);
        deliver(std::move(batch));
      }
    } catch (...) {
      std::lock_guard lock(mutex_);
      is_over_ = true;
      changed_.notify_all();
      throw;
    }
  }

  // Reads the next batch, when it is this worker's turn and not too much is under way; null at the end.
  std::unique_ptr<Batch> take() {
    std::unique_lock lock(mutex_);
    const size_t limit = static_cast<size_t>(num_threads()) * kBytesInFlightPerWorker;
    changed_.wait(lock, [&] {
      return is_over_ || (!is_reading_ && (bytes_in_flight_ == 0 || bytes_in_flight_ < limit));
    });
    if (is_over_ || stop_requested()) {
      is_over_ = true;
      changed_.notify_all();
      return nullptr;
    }
    is_reading_ = true;
    auto batch = spare_.empty() ? std::make_unique<Batch>() : std::move(spare_.back());
    if (!spare_.empty()) spare_.pop_back();
    lock.unlock();
    const bool any = reader_->next(batch->text, kBatchBytes);
    batch->bytes = batch->text.text.size() + 1;
    lock.lock();
    is_reading_ = false;
    if (any) {
      batch->number = next_read_++;
      bytes_in_flight_ += batch->bytes;
    } else {
      is_over_ = true;
    }
    changed_.notify_all();
    return any ? std::move(batch) : nullptr;
  }

  bool by_line(CorpusFormat format) const {
    if (options_.sequences == SequenceUnit::automatic) return format == CorpusFormat::wikitext;
    return options_.sequences == SequenceUnit::line;
  }

  void encode(Batch& batch, tokenizer::EncodeScratch& scratch, JsonTextScanner& scanner,
              std::string& text) const {
    batch.tokens.clear();
    batch.sequences.clear();
    batch.units.clear();
    for (const TextUnit& unit : batch.text.units) {
      std::string error = unit.error;
      if (error.empty()) {
        const auto& path = options_.inputs[unit.file];
        std::string_view view = std::string_view(batch.text.text).substr(unit.begin, unit.size);
        error = bytes_problem(unit, view, path);
        if (error.empty() && unit.is_json_line) {
          error = json_line_text(unit, view, path, scanner, text);
          view = text;
        }
        if (error.empty()) encode(unit, view, scratch, batch);
      }
      batch.units.push_back({batch.sequences.size(), std::move(error)});
    }
  }

  void encode(const TextUnit& unit, std::string_view text, tokenizer::EncodeScratch& scratch,
              Batch& batch) const {
    const auto add = [&](std::string_view piece, bool ends) {
      tokenizer_.encode_into(piece, scratch, batch.tokens, options_.special_tokens);
      batch.sequences.push_back({batch.tokens.size(), ends});
    };
    const bool is_whole = unit.begins_document && unit.ends_document;
    if (is_whole && is_blank(text)) return;
    if (!by_line(unit.format)) return add(text, unit.ends_document);
    while (!text.empty()) {
      const size_t end = std::min(text.find('\n'), text.size());
      const bool ends = end < text.size() || unit.ends_document;
      std::string_view line = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      if (ends && line.ends_with('\r')) line.remove_suffix(1);
      if (!is_blank(line)) add(line, ends);
    }
  }

  // Writes the batch when those before it are written, else leaves that to the worker that is writing.
  void deliver(std::unique_ptr<Batch> done) {
    std::unique_lock lock(mutex_);
    const int64_t number = done->number;
    ready_.emplace(number, std::move(done));
    if (is_writing_) return;
    is_writing_ = true;
    while (!ready_.empty() && ready_.begin()->first == next_written_) {
      std::unique_ptr<Batch> batch = std::move(ready_.begin()->second);
      ready_.erase(ready_.begin());
      lock.unlock();
      write(*batch);
      lock.lock();
      ++next_written_;
      bytes_in_flight_ -= batch->bytes;
      spare_.push_back(std::move(batch));
      changed_.notify_all();
    }
    is_writing_ = false;
  }

  // --- the writing side, one worker at a time ---

  void write(const Batch& batch) {
    size_t token = 0, sequence = 0;
    const int64_t tokens_before = output_->num_tokens();
    for (size_t i = 0; i < batch.units.size(); ++i) {
      const TextUnit& unit = batch.text.units[i];
      const Batch::Unit& encoded = batch.units[i];
      if (document_failed_) {
        document_failed_ = !unit.ends_document;
      } else if (!encoded.error.empty()) {
        skip(encoded.error);
        if (!unit.begins_document) output_->take_back_document();
        document_failed_ = !unit.ends_document;
      } else {
        if (unit.begins_document) output_->begin_document(!unit.ends_document);
        size_t at = token;
        for (size_t s = sequence; s < encoded.end; ++s) {
          output_->add(std::span(batch.tokens).subspan(at, batch.sequences[s].end - at));
          if (batch.sequences[s].is_ended) output_->end_sequence();
          at = batch.sequences[s].end;
        }
        if (unit.ends_document) output_->end_document(options_.append_eod ? eod_id_ : -1);
      }
      if (encoded.end > sequence) token = batch.sequences[encoded.end - 1].end;
      sequence = encoded.end;
    }
    const uint64_t text_bytes = batch.text.text_bytes - report_.text_bytes;
    report_.text_bytes = batch.text.text_bytes;
    report_.file_bytes = batch.text.file_bytes;
    position_ = batch.text.end;
    new_tokens_ += output_->num_tokens() - tokens_before;
    show(text_bytes);
    if (batch.text.is_resumable && !document_failed_) {
      const std::chrono::duration<double> since = std::chrono::steady_clock::now() - saved_;
      if (since.count() >= options_.save_every_seconds) save();
      is_savable_ = true;
    } else {
      is_savable_ = false;
    }
  }

  void skip(const std::string& error) {
    if (!options_.skip_bad) throw DataError("{}", error);
    ++report_.skipped_documents;
    if (report_.errors.size() == kShownErrors) return;
    log::warning("skipped: {}", error);
    report_.errors.push_back(error);
  }

  void show(uint64_t text_bytes) {
    const double seconds = std::max(progress_->seconds(), 1e-9);
    std::string extra = fmt::format("{} tokens/s", format_count(static_cast<double>(new_tokens_) / seconds));
    const uint64_t done = report_.file_bytes - std::min(resumed_file_bytes_, report_.file_bytes);
    if (done > 0 && total_file_bytes_ > report_.file_bytes)
      extra += fmt::format(
          ", {:.0f}% of the files, ETA {}",
          100.0 * static_cast<double>(report_.file_bytes) / static_cast<double>(total_file_bytes_),
          format_duration(static_cast<double>(total_file_bytes_ - report_.file_bytes) * seconds /
                          static_cast<double>(done)));
    progress_->advance(text_bytes, extra);
  }

  void save() {
    if (!is_savable_ && !is_complete_) return;
    Json output = output_->save();
    if (is_complete_) output["is_whole"] = true;
    journal_->save({{"is_complete", is_complete_},
                    {"file", position_.file},
                    {"byte", position_.byte},
                    {"line", position_.line},
                    {"in_document", position_.in_document},
                    {"text_bytes", report_.text_bytes},
                    {"file_bytes", report_.file_bytes},
                    {"skipped_documents", report_.skipped_documents},
                    {"errors", report_.errors},
                    {"output", output}});
    saved_ = std::chrono::steady_clock::now();
  }

  void restore(const Json& state) {
    const int64_t piece_tokens = options_.seq_length > 0 ? options_.seq_length + 1 : 0;
    output_ = std::make_unique<BuildOutput>(journal_->directory(), type_, piece_tokens,
                                            state.empty() ? Json() : state.at("output"));
    report_ = {};
    position_ = {};
    resumed_file_bytes_ = 0;
    is_complete_ = is_savable_ = false;
    if (state.empty()) return;
    is_complete_ = state.at("is_complete");
    position_ = {state.at("file"), state.at("byte"), state.at("line"), state.at("in_document")};
    report_.text_bytes = report_.resumed_text_bytes = state.at("text_bytes");
    report_.file_bytes = resumed_file_bytes_ = state.at("file_bytes");
    report_.skipped_documents = state.at("skipped_documents");
    report_.errors = state.at("errors").get<std::vector<std::string>>();
    is_savable_ = true;
    log::info("{}: going on after {} of text", options_.output_prefix.string(),
              format_bytes(static_cast<double>(report_.text_bytes)));
  }

  // --- the end ---

  [[noreturn]] void refuse_nothing() const {
    journal_->remove();
    if (output_->num_dropped_tokens() > 0)
      throw DataError(
          "{} tokens are not enough for one piece of --seq-length {} (and one): nothing was written",
          output_->num_dropped_tokens(), options_.seq_length);
    throw DataError(
        "no document in {}{}: nothing was written",
        options_.inputs.size() == 1 ? options_.inputs[0].string()
                                    : fmt::format("{} files", options_.inputs.size()),
        report_.skipped_documents > 0 ? fmt::format(" ({} skipped)", report_.skipped_documents) : "");
  }

  void publish() {
    const int64_t documents = output_->num_documents();
    if (options_.split.empty()) return publish(options_.output_prefix, 0, documents, true);
    const auto ranges = split_ranges(options_.split, documents);
    for (const Split split : {Split::train, Split::valid, Split::test}) {
      const SequenceRange range = ranges[static_cast<size_t>(split)];
      if (!range.empty())
        publish(options_.output_prefix.string() + "_" + split_name(split), range.begin, range.end, false);
    }
  }

  void publish(const std::filesystem::path& prefix, int64_t begin, int64_t end, bool all) {
    // The description before the index: a dataset without it would train with an unknown eod id.
    const auto written = output_->publish(prefix, begin, end, all, [&](const BuildOutput::Written& counts) {
      Json inputs = Json::array();
      for (const auto& path : options_.inputs) inputs.push_back(path.string());
      const Json metadata = {
          {"format", 1},
          {"tokenizer", options_.tokenizer.string()},
          {"tokenizer_fingerprint", journal_->tokenizer_fingerprint()},
          {"vocab_size", tokenizer_.vocab_size()},
          {"eod_id", eod_id_},
          {"append_eod", options_.append_eod},
          {"seq_length", options_.seq_length},
          {"special_tokens", options_.special_tokens == tokenizer::SpecialTokens::text ? "text" : "encode"},
          {"type", token_type_name(type_)},
          {"documents", counts.documents},
          {"sequences", counts.sequences},
          {"tokens", counts.tokens},
          {"skipped_documents", report_.skipped_documents},
          {"inputs", inputs}};
      journal_->put_file(prefix.string() + ".meta.json",
                         metadata.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    });
    report_.outputs.push_back({prefix, written.documents, written.sequences, written.tokens});
  }

  const BuildOptions& options_;
  tokenizer::Tokenizer tokenizer_;
  TextCutter cutter_;
  formats::TokenType type_;
  int32_t eod_id_ = -1;
  std::unique_ptr<BuildJournal> journal_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_over_ = false, is_reading_ = false, is_writing_ = false;
  int64_t next_read_ = 0, next_written_ = 0;
  size_t bytes_in_flight_ = 0;
  std::map<int64_t, std::unique_ptr<Batch>> ready_;  // encoded, waiting for those before them
  std::vector<std::unique_ptr<Batch>> spare_;

  std::unique_ptr<CorpusReader> reader_;  // whoever set is_reading_
  // Whoever set is_writing_:
  std::unique_ptr<BuildOutput> output_;
  std::unique_ptr<Progress> progress_;
  BuildReport report_;
  CorpusPosition position_;
  bool document_failed_ = false, is_savable_ = false, is_complete_ = false;
  uint64_t total_file_bytes_ = 0, resumed_file_bytes_ = 0;
  int64_t new_tokens_ = 0;
  std::chrono::steady_clock::time_point saved_ = std::chrono::steady_clock::now();
};

}  // namespace

BuildReport build_dataset(const BuildOptions& options) {
  if (options.inputs.empty()) throw UsageError("--input: no file given");
  for (const auto& path : options.inputs) {
    corpus_format(path);
    if (!std::filesystem::exists(path)) throw UsageError("--input {}: there is no such file", path.string());
  }
  if (options.output_prefix.filename().empty())
    throw UsageError("--output-prefix {}: no name after the directory", options.output_prefix.string());
  if (options.seq_length < 0)
    throw UsageError("--seq-length {}: it must not be negative", options.seq_length);
  return Builder(options).run();
}

std::optional<DatasetMetadata> read_dataset_metadata(const std::filesystem::path& path) {
  const std::filesystem::path file = formats::dataset_prefix(path).string() + ".meta.json";
  if (!std::filesystem::exists(file)) return std::nullopt;
  const Json json = read_json_file(file);
  try {
    return DatasetMetadata{json.at("eod_id").get<int32_t>(), json.at("append_eod").get<bool>(),
                           json.at("vocab_size").get<int64_t>(), json.at("tokenizer").get<std::string>(),
                           json.at("tokenizer_fingerprint").get<std::string>()};
  } catch (const nlohmann::json::exception& e) {
    throw ConfigError("{}: not what fathom data build writes: {}", file.string(), e.what());
  }
}

}  // namespace fathom::data

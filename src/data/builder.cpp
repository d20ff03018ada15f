#include "data/builder.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "base/stop_signal.h"
#include "data/corpus.h"
#include "data/split.h"
#include "formats/indexed_dataset.h"

namespace fathom::data {
namespace {

constexpr size_t kBatchBytes = 256 << 10;  // of text; a batch is one task
constexpr int kBatchesPerThread = 4;       // in a round, so that threads end a round together
constexpr int kShownErrors = 10;

// One document's sequences back to back, or what is wrong with it.
struct EncodedDocument {
  std::vector<int32_t> tokens;
  std::vector<size_t> ends;  // of each sequence in `tokens`
  std::string error;
};

struct Batch {
  std::vector<RawDocument> documents;
  std::vector<EncodedDocument> encoded;
};

class Builder {
 public:
  explicit Builder(const BuildOptions& options)
      : options_(options),
        tokenizer_(tokenizer::Tokenizer::load(options.tokenizer)),
        reader_(options.inputs) {
    const auto eos = tokenizer_.eos_id();
    if (options.append_eod && !eos)
      throw ConfigError(
          "{}: --append-eod needs an end-of-document id, and tokenizer_config.json beside it names no "
          "eos_token",
          tokenizer_.path().string());
    eod_id_ = eos.value_or(-1);
    type_ = formats::token_type_for_vocabulary(tokenizer_.vocab_size());
    const MappedFile file(tokenizer_.path());
    fingerprint_ = fmt::format("{:016x}", XXH64(file.data(), file.size(), 0));
  }

  BuildReport run() {
    if (!options_.split.empty())
      split_ranges(options_.split, 1);  // a bad split ends it here, not after hours
    const auto directory = options_.output_prefix.parent_path();
    if (!directory.empty()) make_directories(directory);
    uint64_t total = 0;
    for (const auto& path : options_.inputs) {
      std::error_code error;
      const auto size = std::filesystem::file_size(path, error);
      if (!error) total += size;
    }
    Progress progress("tokenising", total, "B");
    // With a split the whole is written first, then cut: only at the end the number of documents is known.
    const auto whole = options_.split.empty()
                           ? options_.output_prefix
                           : std::filesystem::path(options_.output_prefix.string() + ".unsplit");
    writer_ = std::make_unique<formats::IndexedDatasetWriter>(whole, type_);
    while (read_round()) {
      if (stop_requested()) throw Error("{}: stopped by a signal; nothing was written", whole.string());
      parallel_tasks(static_cast<int64_t>(batches_.size()),
                     [&](int64_t task) { encode(batches_[static_cast<size_t>(task)]); });
      write_round();
      progress.advance(reader_.file_bytes_read() - shown_bytes_,
                       format_count(static_cast<double>(writer_->num_tokens())) + " tokens");
      shown_bytes_ = reader_.file_bytes_read();
    }
    if (writer_->num_documents() == 0)
      throw DataError(
          "no document in {}{}: nothing was written",
          options_.inputs.size() == 1 ? options_.inputs[0].string()
                                      : fmt::format("{} files", options_.inputs.size()),
          report_.skipped_documents > 0 ? fmt::format(" ({} skipped)", report_.skipped_documents) : "");
    if (report_.skipped_documents > kShownErrors)
      log::warning("{} documents were skipped, {} of them shown", report_.skipped_documents, kShownErrors);
    if (options_.split.empty()) {
      finish(*writer_, options_.output_prefix);
    } else {
      writer_->commit();
      writer_.reset();
      cut(whole);
    }
    progress.finish();
    report_.input_bytes = shown_bytes_;
    report_.seconds = progress.seconds();
    return std::move(report_);
  }

 private:
  bool read_round() {
    batches_.resize(static_cast<size_t>(num_threads()) * kBatchesPerThread);
    bool any = false;
    for (Batch& batch : batches_) {
      batch.documents.clear();
      size_t bytes = 0;
      while (bytes < kBatchBytes) {
        auto document = reader_.next();
        if (!document) break;
        bytes += document->text.size() + sizeof(RawDocument);
        batch.documents.push_back(std::move(*document));
        any = true;
      }
    }
    return any;
  }

  bool by_line(const RawDocument& document) const {
    if (options_.sequences == SequenceUnit::automatic) return document.format == CorpusFormat::wikitext;
    return options_.sequences == SequenceUnit::line;
  }

  void encode(Batch& batch) const {
    tokenizer::EncodeScratch scratch;
    batch.encoded.clear();
    batch.encoded.resize(batch.documents.size());
    for (size_t i = 0; i < batch.documents.size(); ++i) {
      try {
        encode(batch.documents[i], scratch, batch.encoded[i]);
      } catch (const DataError& e) {
        batch.encoded[i].error = e.what();
      }
    }
  }

  void encode(const RawDocument& document, tokenizer::EncodeScratch& scratch, EncodedDocument& out) const {
    const std::string text = document_text(document, options_.inputs, options_.json_key);
    if (is_blank(text)) return;
    const auto add = [&](std::string_view piece) {
      tokenizer_.encode_into(piece, scratch, out.tokens, options_.special_tokens);
      out.ends.push_back(out.tokens.size());
    };
    if (by_line(document)) {
      std::string_view rest = text;
      while (!rest.empty()) {
        const size_t end = std::min(rest.find('\n'), rest.size());
        std::string_view line = rest.substr(0, end);
        rest.remove_prefix(std::min(end + 1, rest.size()));
        if (line.ends_with('\r')) line.remove_suffix(1);
        if (!is_blank(line)) add(line);
      }
    } else {
      add(text);
    }
    if (options_.append_eod) {
      out.tokens.push_back(eod_id_);
      ++out.ends.back();
    }
  }

  void write_round() {
    for (const Batch& batch : batches_) {
      for (size_t i = 0; i < batch.documents.size(); ++i) write(batch.encoded[i]);
    }
  }

  void write(const EncodedDocument& document) {
    if (!document.error.empty()) {
      if (!options_.skip_bad) throw DataError("{}", document.error);
      if (++report_.skipped_documents <= kShownErrors) log::warning("skipped: {}", document.error);
      return;
    }
    if (document.ends.empty()) return;
    size_t begin = 0;
    for (const size_t end : document.ends) {
      const size_t step = options_.seq_length > 0 ? static_cast<size_t>(options_.seq_length)
                                                  : std::max<size_t>(end - begin, 1);
      for (size_t at = begin; at < end; at += step)
        writer_->add_sequence(std::span(document.tokens).subspan(at, std::min(step, end - at)));
      begin = end;
    }
    writer_->end_document();
  }

  void finish(formats::IndexedDatasetWriter& writer, const std::filesystem::path& prefix) {
    const BuiltDataset built{prefix, writer.num_documents(), writer.num_sequences(), writer.num_tokens()};
    // The description first: a dataset without it would train with an unknown eod id.
    Json inputs = Json::array();
    for (const auto& path : options_.inputs) inputs.push_back(path.string());
    write_text_file(prefix.string() + ".meta.json",
                    Json({{"format", 1},
                          {"tokenizer", options_.tokenizer.string()},
                          {"tokenizer_fingerprint", fingerprint_},
                          {"vocab_size", tokenizer_.vocab_size()},
                          {"eod_id", eod_id_},
                          {"append_eod", options_.append_eod},
                          {"special_tokens",
                           options_.special_tokens == tokenizer::SpecialTokens::text ? "text" : "encode"},
                          {"type", token_type_name(type_)},
                          {"documents", built.documents},
                          {"sequences", built.sequences},
                          {"tokens", built.tokens},
                          {"skipped_documents", report_.skipped_documents},
                          {"inputs", inputs}})
                            .dump(2, ' ', false, Json::error_handler_t::replace) +
                        "\n");
    writer.commit();
    report_.outputs.push_back(built);
  }

  void cut(const std::filesystem::path& whole_prefix) {
    struct Remover {
      std::filesystem::path prefix;
      ~Remover() {
        std::error_code ignored;
        for (const char* extension : {".bin", ".idx"})
          std::filesystem::remove(prefix.string() + extension, ignored);
      }
    } remover{whole_prefix};
    const formats::IndexedDataset whole(whole_prefix);
    const auto ranges = split_ranges(options_.split, whole.num_documents());
    for (const Split split : {Split::train, Split::valid, Split::test}) {
      const SequenceRange range = ranges[static_cast<size_t>(split)];
      if (range.empty()) continue;
      const std::filesystem::path prefix = options_.output_prefix.string() + "_" + split_name(split);
      formats::IndexedDatasetWriter writer(prefix, type_);
      for (int64_t d = range.begin; d < range.end; ++d) writer.append_document(whole, d);
      finish(writer, prefix);
    }
  }

  const BuildOptions& options_;
  tokenizer::Tokenizer tokenizer_;
  CorpusReader reader_;
  int32_t eod_id_ = -1;
  formats::TokenType type_ = formats::TokenType::int32;
  std::string fingerprint_;
  std::unique_ptr<formats::IndexedDatasetWriter> writer_;
  std::vector<Batch> batches_;
  uint64_t shown_bytes_ = 0;
  BuildReport report_;
};

}  // namespace

BuildReport build_dataset(const BuildOptions& options) {
  if (options.inputs.empty()) throw UsageError("--input: no file given");
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

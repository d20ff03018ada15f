#include "data/sft_builder.h"

#include <unistd.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "base/stop_signal.h"
#include "chat/marks.h"
#include "data/sft_output.h"
#include "data/sft_plan.h"
#include "data/sft_records.h"
#include "formats/indexed_dataset.h"

namespace fathom::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBatchRecords = 1024, kBatchBytes = 8 << 20, kExamples = 10;

// A directory for the first pass, gone at the end whatever happens.
class StagingDirectory {
 public:
  explicit StagingDirectory(const fs::path& output)
      : path_(output.string() + ".tmp-" + std::to_string(::getpid())) {
    make_directories(path_);
  }
  StagingDirectory(const StagingDirectory&) = delete;
  StagingDirectory& operator=(const StagingDirectory&) = delete;
  ~StagingDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  fs::path prefix() const { return path_ / "samples"; }

 private:
  fs::path path_;
};

// What became of one record.
struct Encoded {
  std::vector<chat::TrainingSample> samples;
  chat::TrainingNotes notes;
  std::string error;  // not empty: the record is bad
  int64_t without_target = 0, too_long = 0, truncated = 0, truncated_without_target = 0;
  std::string remark;  // on what was left out of it
};

class SftBuild {
 public:
  explicit SftBuild(const SftOptions& options)
      : options_(options),
        tokenizer_(tokenizer::Tokenizer::load(options.tokenizer)),
        training_(options.training) {
    training_.which = options.chat_template ? *options.chat_template : own_template();
    report_.chat_template = training_.which;
    const bool thinks = training_.which == chat::Template::r1 || training_.which == chat::Template::v3_1;
    if (thinks && !tokenizer_.token_to_id(chat::marks::kThink))
      log::warning("{}: it has no token <think>, which the template {} uses: it is written as ordinary text",
                   tokenizer_.path().string(), chat::template_name(training_.which));
    scratches_.resize(static_cast<size_t>(num_threads()));
  }

  SftReport run() {
    const fs::path parent = options_.output.parent_path();
    if (!parent.empty()) make_directories(parent);
    const StagingDirectory staging(options_.output);
    Progress progress("Reading conversations", input_bytes(), "B");
    std::vector<int64_t> sizes;
    {
      formats::IndexedDatasetWriter writer(staging.prefix(), formats::TokenType::int32);
      for (const SftInput& input : options_.inputs) {
        encode_file(input, writer, progress);
        sizes.push_back(report_.files.back().samples);
      }
      if (writer.num_sequences() == 0) throw DataError("{}", nothing_left());
      writer.end_document();
      writer.commit();
    }
    const formats::IndexedDataset staged(staging.prefix());
    const std::vector<int64_t> order = mix(sizes);
    if (order.empty()) throw DataError("the weights leave no sample of {}", report_.conversations);
    std::vector<int32_t> lengths;
    lengths.reserve(order.size());
    for (const int64_t sample : order) lengths.push_back(staged.sequence_length(sample));
    PackingPlan plan = options_.pack ? pack_samples(lengths, options_.seq_length + 1)
                                     : one_a_row(static_cast<int64_t>(order.size()));
    count_written(order, sizes);
    for (int64_t& sample : plan.order) sample = order[static_cast<size_t>(sample)];
    write_sft_rows(options_, tokenizer_, staged, plan, report_);
    progress.finish();
    report_.seconds = progress.seconds();
    return report_;
  }

 private:
  chat::Template own_template() const {
    const auto which = chat::template_of(tokenizer_.path().parent_path());
    if (!which)
      throw ConfigError(
          "{}: no chat template stands beside it: name one with --chat-template v3|v3-0324|r1|v3.1",
          tokenizer_.path().string());
    return *which;
  }

  uint64_t input_bytes() const {
    uint64_t bytes = 0;
    for (const SftInput& input : options_.inputs) {
      std::error_code error;
      const auto size = fs::file_size(input.path, error);
      if (!error) bytes += size;
    }
    return bytes;
  }

  void encode_file(const SftInput& input, formats::IndexedDatasetWriter& writer, Progress& progress) {
    SftRecordReader reader(input.path);
    SftFileReport file;
    file.path = input.path.string();
    std::optional<SftFormat> format = options_.format;
    std::vector<SftRecord> records;
    uint64_t bytes_shown = 0;
    bool more = true;
    while (more) {
      size_t bytes = 0, count = 0;
      while (count < kBatchRecords && bytes < kBatchBytes) {
        if (records.size() == count) records.emplace_back();
        more = reader.next(records[count]);
        if (!more) break;
        bytes += records[count++].text.size();
      }
      if (count == 0) break;
      if (!format) format = first_format(records[0], input.path);
      encode_batch(std::span(records).first(count), *format, input.path, file, writer);
      progress.advance(reader.file_bytes_read() - bytes_shown,
                       format_integer(report_.conversations) + " conversations");
      bytes_shown = reader.file_bytes_read();
      if (stop_requested())
        throw Error("{}: stopped by a signal; nothing was written", options_.output.string());
    }
    file.format = format.value_or(SftFormat::messages);
    report_.files.push_back(file);
  }

  static std::string where(const fs::path& path, const SftRecord& record) {
    return fmt::format("{}: line {} (record {})", path.string(), record.line, record.number);
  }

  static Json parse(const SftRecord& record, const std::string& where) {
    try {
      return parse_json(record.text, where);
    } catch (const ConfigError& error) {
      throw DataError(std::string(error.what()));
    }
  }

  SftFormat first_format(const SftRecord& record, const fs::path& path) const {
    const std::string at = where(path, record);
    return detect_sft_format(parse(record, at), at);
  }

  void encode_batch(std::span<const SftRecord> records, SftFormat format, const fs::path& path,
                    SftFileReport& file, formats::IndexedDatasetWriter& writer) {
    std::vector<Encoded> results(records.size());
    const auto parts = static_cast<int64_t>(scratches_.size());
    parallel_tasks(parts, [&](int64_t part) {
      for (auto i = static_cast<size_t>(part); i < records.size(); i += static_cast<size_t>(parts))
        results[i] = encode(records[i], format, path, scratches_[static_cast<size_t>(part)]);
    });
    std::vector<int32_t> marked;
    for (const Encoded& result : results) {
      ++report_.conversations;
      ++file.conversations;
      if (!result.error.empty()) {
        if (!options_.skip_bad) throw DataError("{}; --on-error skip leaves such records out", result.error);
        ++report_.bad_records;
        remark(result.error);
        continue;
      }
      report_.notes.add(result.notes);
      report_.without_target += result.without_target;
      report_.too_long_dropped += result.too_long;
      report_.truncated += result.truncated;
      report_.truncated_without_target += result.truncated_without_target;
      if (!result.remark.empty()) remark(result.remark);
      for (const chat::TrainingSample& sample : result.samples) {
        marked.resize(sample.ids.size());
        for (size_t i = 0; i < marked.size(); ++i)
          marked[i] = sample.ids[i] | (sample.trained[i] ? kTrainedBit : 0);
        writer.add_sequence(marked);
        ++file.samples;
      }
    }
  }

  Encoded encode(const SftRecord& record, SftFormat format, const fs::path& path,
                 tokenizer::EncodeScratch& scratch) const {
    Encoded result;
    const std::string at = where(path, record);
    try {
      const chat::Conversation conversation = read_sft_record(parse(record, at), format, options_.system, at);
      try {
        result.samples = chat::training_samples(conversation, training_, tokenizer_, scratch, result.notes);
      } catch (const DataError& error) {
        throw DataError("{}: {}", at, error.what());
      }
      if (result.samples.empty()) {
        ++result.without_target;
        result.remark = at + ": nothing in it would be trained";
      }
      const auto longest = static_cast<size_t>(options_.seq_length) + 1;
      std::erase_if(result.samples, [&](chat::TrainingSample& sample) {
        return sample.ids.size() > longest && !shorten(sample, longest, at, result);
      });
    } catch (const DataError& error) {
      result.error = error.what();
    }
    return result;
  }

  // Whether the sample is kept.
  bool shorten(chat::TrainingSample& sample, size_t longest, const std::string& at, Encoded& result) const {
    const size_t length = sample.ids.size();
    if (options_.on_long == OnLong::error)
      throw DataError(
          "{}: {} tokens are more than --seq-length {} + 1: raise it, or give --on-long drop or truncate", at,
          length, options_.seq_length);
    if (options_.on_long == OnLong::drop) {
      ++result.too_long;
      result.remark =
          fmt::format("{}: {} tokens are more than --seq-length {} + 1", at, length, options_.seq_length);
      return false;
    }
    sample.ids.resize(longest);
    sample.trained.resize(longest);
    sample.num_trained = std::count(sample.trained.begin(), sample.trained.end(), uint8_t{1});
    if (sample.num_trained > 0) {
      ++result.truncated;
      return true;
    }
    ++result.truncated_without_target;
    result.remark = fmt::format("{}: cut from {} to {} tokens nothing is left to train", at, length, longest);
    return false;
  }

  void remark(const std::string& text) {
    if (report_.examples.size() < kExamples) report_.examples.push_back(text);
  }

  std::string nothing_left() const {
    std::string text = fmt::format("no sample is left of {} conversations", report_.conversations);
    if (!report_.examples.empty()) text += ", for instance " + report_.examples[0];
    return text;
  }

  std::vector<int64_t> mix(const std::vector<int64_t>& sizes) const {
    std::vector<double> weights;
    for (const SftInput& input : options_.inputs)
      if (input.weight > 0) weights.push_back(input.weight);
    return mix_samples(sizes, weights, options_.num_samples, options_.seed);
  }

  void count_written(const std::vector<int64_t>& order, const std::vector<int64_t>& sizes) {
    std::vector<int64_t> ends;
    ends.reserve(sizes.size());
    int64_t end = 0;
    for (const int64_t size : sizes) ends.push_back(end += size);
    for (const int64_t sample : order)
      ++report_.files[static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), sample) - ends.begin())]
            .written;
    report_.samples = static_cast<int64_t>(order.size());
  }

  const SftOptions& options_;
  tokenizer::Tokenizer tokenizer_;
  chat::TrainingOptions training_;
  std::vector<tokenizer::EncodeScratch> scratches_;
  SftReport report_;
};

}  // namespace

SftReport build_sft(const SftOptions& options) {
  if (options.seq_length < 1) throw UsageError("--seq-length {}: it must be positive", options.seq_length);
  if (options.inputs.empty()) throw UsageError("no input: name files with --input");
  const auto weighted = std::count_if(options.inputs.begin(), options.inputs.end(),
                                      [](const SftInput& input) { return input.weight > 0; });
  if (weighted != 0 && weighted != static_cast<std::ptrdiff_t>(options.inputs.size()))
    throw UsageError("{} of {} files have a weight: give all of them one, or none", weighted,
                     options.inputs.size());
  if (options.num_samples > 0 && weighted == 0)
    throw UsageError("--samples goes with weights: give each file one (--input F:0.5, or --weights)");
  if (options.output.filename().empty())
    throw UsageError("--output {}: no name after the directory", options.output.string());
  return SftBuild(options).run();
}

}  // namespace fathom::data

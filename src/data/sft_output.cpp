#include "data/sft_output.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/stop_signal.h"
#include "chat/marks.h"
#include "data/build_journal.h"
#include "data/sft_dataset.h"
#include "formats/mindrecord.h"

namespace fathom::data {
namespace {

namespace fs = std::filesystem;

class RowWriter {
 public:
  RowWriter(const SftOptions& options, const tokenizer::Tokenizer& tokenizer,
            const formats::IndexedDataset& staged, const PackingPlan& plan, SftReport& report)
      : options_(options), tokenizer_(tokenizer), staged_(staged), plan_(plan), report_(report) {
    // Its id plays no part in our own data. Readers that mask by id are best served by one that no text holds.
    const auto pad = tokenizer.token_to_id(chat::marks::kPad);
    pad_id_ = pad ? *pad : tokenizer.eos_id().value_or(0);
    report_.rows = plan.rows();
  }

  void write_bin() {
    const fs::path prefix = formats::dataset_prefix(options_.output);
    formats::IndexedDatasetWriter tokens(prefix, formats::token_type_for_vocabulary(tokenizer_.vocab_size()));
    formats::IndexedDatasetWriter mask(loss_mask_prefix(prefix), formats::TokenType::uint8);
    for (int64_t row = 0; row < plan_.rows(); ++row) {
      int64_t length = 0;
      each_sample(row, [&] {
        tokens.add_sequence(ids_);
        mask.add_sequence(trained_);
        length += static_cast<int64_t>(ids_.size());
      });
      tokens.end_document();
      mask.end_document();
      report_.longest_row = std::max(report_.longest_row, length);
    }
    report_.output = prefix.string();
    // The index of the tokens comes last: while it is missing nobody reads a mask or a description of other data.
    std::error_code ignored;
    fs::remove(prefix.string() + ".idx", ignored);
    mask.commit();
    write_text_file(prefix.string() + ".meta.json",
                    metadata().dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    tokens.commit();
  }

  void write_mindrecord() {
    fs::path path = options_.output;
    if (path.extension() != ".mindrecord") path += ".mindrecord";
    std::vector<formats::MindColumn> columns = {{"input_ids"}, {"labels"}};
    if (options_.pack) columns.push_back({"position_ids"});
    formats::MindRecordOptions options;
    options.shards = options_.shards;
    formats::MindRecordWriter writer(path, std::move(columns), plan_.rows(), options);
    const auto length = static_cast<size_t>(options_.seq_length) + 1;
    for (int64_t row = 0; row < plan_.rows(); ++row) {
      std::vector<int64_t> ids, labels, positions;
      each_sample(row, [&] {
        for (size_t i = 0; i < ids_.size(); ++i) {
          ids.push_back(ids_[i]);
          labels.push_back(trained_[i] ? ids_[i] : -100);
          positions.push_back(static_cast<int64_t>(i));
        }
      });
      report_.longest_row = std::max(report_.longest_row, static_cast<int64_t>(ids.size()));
      for (int64_t i = 0; ids.size() < length; ++i) {
        ids.push_back(pad_id_);
        labels.push_back(-100);
        positions.push_back(i);
      }
      formats::MindRow values = {std::move(ids), std::move(labels)};
      if (options_.pack) values.emplace_back(std::move(positions));
      writer.add(values);
    }
    writer.commit();
    report_.output = path.string();
  }

 private:
  // Calls fn() with each sample of a row in ids_ and trained_.
  template <typename Function>
  void each_sample(int64_t row, Function&& fn) {
    if (stop_requested())
      throw Error("{}: stopped by a signal; nothing was written", options_.output.string());
    for (int64_t i = plan_.begins[static_cast<size_t>(row)]; i < plan_.begins[static_cast<size_t>(row) + 1];
         ++i) {
      const int64_t sample = plan_.order[static_cast<size_t>(i)];
      const int32_t length = staged_.sequence_length(sample);
      ids_.resize(static_cast<size_t>(length));
      trained_.resize(ids_.size());
      staged_.read(sample, 0, length, ids_.data());
      for (size_t k = 0; k < ids_.size(); ++k) {
        trained_[k] = (ids_[k] & kTrainedBit) != 0 ? 1 : 0;
        ids_[k] &= ~kTrainedBit;
      }
      report_.tokens += length;
      report_.trained_tokens += std::count(trained_.begin(), trained_.end(), 1);
      fn();
    }
  }

  Json metadata() const {
    static constexpr const char* kTrainOn[] = {"assistant", "last", "all"};
    static constexpr const char* kOnLong[] = {"drop", "truncate", "error"};
    static constexpr const char* kThinking[] = {"auto", "on", "off"};
    const chat::TrainingOptions& training = options_.training;
    Json inputs = Json::array();
    for (size_t i = 0; i < options_.inputs.size(); ++i) {
      const SftFileReport& file = report_.files[i];
      Json input = {{"path", file.path},
                    {"format", sft_format_name(file.format)},
                    {"conversations", file.conversations},
                    {"samples", file.written}};
      if (options_.inputs[i].weight > 0) input["weight"] = options_.inputs[i].weight;
      inputs.push_back(std::move(input));
    }
    return {{"format", 1},
            {"kind", "sft"},
            {"tokenizer", options_.tokenizer.string()},
            {"tokenizer_fingerprint", tokenizer_hash(tokenizer_.path())},
            {"vocab_size", tokenizer_.vocab_size()},
            {"eod_id", tokenizer_.eos_id().value_or(-1)},
            {"append_eod", false},
            {"pad_id", pad_id_},
            {"seq_length", options_.seq_length},
            {"packed", options_.pack},
            {"chat_template", chat::template_name(report_.chat_template)},
            {"train_on", kTrainOn[static_cast<int>(training.train_on)]},
            {"thinking", kThinking[static_cast<int>(training.thinking)]},
            {"tool_calls", training.mend_tool_calls ? "mended" : "published"},
            {"tools", training.tools_in_system_prompt ? "system" : "published"},
            {"on_long", kOnLong[static_cast<int>(options_.on_long)]},
            {"seed", options_.seed},
            {"rows", report_.rows},
            {"documents", report_.rows},
            {"sequences", report_.samples},
            {"tokens", report_.tokens},
            {"trained_tokens", report_.trained_tokens},
            {"inputs", inputs}};
  }

  const SftOptions& options_;
  const tokenizer::Tokenizer& tokenizer_;
  const formats::IndexedDataset& staged_;
  const PackingPlan& plan_;
  SftReport& report_;
  int32_t pad_id_ = 0;
  std::vector<int32_t> ids_, trained_;
};

}  // namespace

void write_sft_rows(const SftOptions& options, const tokenizer::Tokenizer& tokenizer,
                    const formats::IndexedDataset& staged, const PackingPlan& plan, SftReport& report) {
  RowWriter writer(options, tokenizer, staged, plan, report);
  if (options.container == SftContainer::bin)
    writer.write_bin();
  else
    writer.write_mindrecord();
}

}  // namespace fathom::data

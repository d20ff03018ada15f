// fathom data inspect: looks into an indexed dataset.
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "cli/data_commands.h"
#include "data/builder.h"
#include "data/gpt_dataset.h"
#include "formats/indexed_dataset.h"
#include "tokenizer/tokenizer.h"

namespace fathom::cli {
namespace {

struct InspectFlags {
  std::string path, tokenizer;
  int64_t sample = -1, seq_length = 0;
  uint32_t seed = 1234;
  bool json = false;
};

std::optional<tokenizer::Tokenizer> find_tokenizer(const InspectFlags& flags,
                                                   const std::optional<data::DatasetMetadata>& metadata) {
  if (!flags.tokenizer.empty()) return tokenizer::Tokenizer::load(flags.tokenizer);
  if (!metadata || !std::filesystem::exists(metadata->tokenizer)) return std::nullopt;
  return tokenizer::Tokenizer::load(metadata->tokenizer);
}

// Without --seq-length sample K is document K; with it, training window K of an epoch.
std::vector<int32_t> sample_ids(const std::shared_ptr<const formats::IndexedDataset>& dataset,
                                const InspectFlags& flags, const data::GptDataset* windows) {
  std::vector<int32_t> ids;
  const int64_t count = windows ? windows->size() : dataset->num_documents();
  if (flags.sample >= count)
    throw UsageError("--sample {}: {} has {} {}", flags.sample, flags.path, count,
                     windows ? "samples" : "documents");
  if (windows) {
    ids.resize(static_cast<size_t>(flags.seq_length) + 1);
    windows->read(flags.sample, int64_t{1} << 31, ids.data());
    return ids;
  }
  for (int64_t i = dataset->document_begin(flags.sample); i < dataset->document_begin(flags.sample + 1);
       ++i) {
    const size_t at = ids.size();
    ids.resize(at + static_cast<size_t>(dataset->sequence_length(i)));
    dataset->read(i, 0, dataset->sequence_length(i), ids.data() + at);
  }
  return ids;
}

void run_inspect(const InspectFlags& flags) {
  const auto dataset = std::make_shared<const formats::IndexedDataset>(flags.path);
  const auto metadata = data::read_dataset_metadata(flags.path);
  std::unique_ptr<data::GptDataset> windows;
  if (flags.seq_length > 0)
    windows = std::make_unique<data::GptDataset>(
        dataset, data::GptDatasetOptions{{0, dataset->num_sequences()}, 0, flags.seq_length, flags.seed});
  Json out{{"path", dataset->prefix().string()},    {"type", formats::token_type_name(dataset->type())},
           {"documents", dataset->num_documents()}, {"sequences", dataset->num_sequences()},
           {"tokens", dataset->num_tokens()},       {"longest_sequence", dataset->longest_sequence()}};
  if (metadata) {
    out["eod_id"] = metadata->eod_id;
    out["append_eod"] = metadata->append_eod;
    out["vocab_size"] = metadata->vocab_size;
    out["tokenizer"] = metadata->tokenizer;
  }
  if (windows) {
    out["seq_length"] = flags.seq_length;
    out["samples"] = windows->size();
  }
  if (flags.sample >= 0) {
    const std::vector<int32_t> ids = sample_ids(dataset, flags, windows.get());
    out["sample"] = {{"index", flags.sample}, {"ids", ids}};
    if (const auto tokenizer = find_tokenizer(flags, metadata))
      out["sample"]["text"] = tokenizer->decode(ids, false);
  }
  if (flags.json) {
    std::puts(out.dump().c_str());
    return;
  }
  for (const auto& [key, value] : out.items()) {
    if (key == "sample") continue;
    std::printf("%-18s%s\n", key.c_str(),
                (value.is_string() ? value.get<std::string>() : value.dump()).c_str());
  }
  if (!out.contains("sample")) return;
  std::string ids;
  for (const Json& id : out["sample"]["ids"]) ids += (ids.empty() ? "" : " ") + id.dump();
  std::printf("\n%s %lld, %zu tokens\n%s\n", windows ? "sample" : "document",
              static_cast<long long>(flags.sample), out["sample"]["ids"].size(), ids.c_str());
  if (out["sample"].contains("text"))
    std::printf("\n%s\n", out["sample"]["text"].get_ref<const std::string&>().c_str());
  else
    std::printf("\n(give --tokenizer to see the text)\n");
}
}  // namespace

void add_data_inspect(CLI::App& data) {
  CLI::App* command = data.add_subcommand("inspect", "Show what a .bin/.idx dataset holds");
  const auto flags = std::make_shared<InspectFlags>();
  command->add_option("path", flags->path, "the dataset: its prefix, .bin or .idx")->required();
  command
      ->add_option("--sample", flags->sample, "show this document (with --seq-length: this training sample)")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--seq-length", flags->seq_length,
                   "look at training samples of this length, in training order")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  command->add_option("--seed", flags->seed, "of the training order")->capture_default_str();
  command->add_option("--tokenizer", flags->tokenizer,
                      "decodes the sample (default: the one of P.meta.json, if there)");
  command->add_flag("--json", flags->json, "print JSON");
  command->footer(
      "Examples:\n"
      "  fathom data inspect out/wiki_train\n"
      "  fathom data inspect out/wiki_train --sample 3 --tokenizer assets/tokenizer\n"
      "  fathom data inspect out/wiki_train --seq-length 512 --sample 0 --json");
  command->callback([flags] { run_inspect(*flags); });
}
}  // namespace fathom::cli

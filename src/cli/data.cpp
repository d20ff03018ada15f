// fathom data: build indexed datasets from text, look into them.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "cli/commands.h"
#include "data/builder.h"
#include "data/gpt_dataset.h"
#include "formats/indexed_dataset.h"
#include "tokenizer/tokenizer.h"

namespace fathom::cli {
namespace {

using data::SequenceUnit;

struct BuildFlags {
  data::BuildOptions options;
  std::vector<std::string> inputs;
  std::string tokenizer, output_prefix, on_error = "stop", special_tokens = "text", sequences = "auto";
  int workers = 0;
  bool json = false;
};

void run_build(BuildFlags& flags) {
  data::BuildOptions& options = flags.options;
  options.tokenizer = flags.tokenizer;
  options.output_prefix = flags.output_prefix;
  options.inputs.assign(flags.inputs.begin(), flags.inputs.end());
  options.skip_bad = flags.on_error == "skip";
  options.special_tokens =
      flags.special_tokens == "encode" ? tokenizer::SpecialTokens::encode : tokenizer::SpecialTokens::text;
  options.sequences = flags.sequences == "line"       ? SequenceUnit::line
                      : flags.sequences == "document" ? SequenceUnit::document
                                                      : SequenceUnit::automatic;
  set_num_threads(flags.workers);
  const data::BuildReport report = data::build_dataset(options);
  Json outputs = Json::array();
  for (const data::BuiltDataset& built : report.outputs) {
    log::info("{}.bin, .idx: {} documents, {} sequences, {} tokens", built.prefix.string(), built.documents,
              built.sequences, built.tokens);
    outputs.push_back({{"prefix", built.prefix.string()},
                       {"documents", built.documents},
                       {"sequences", built.sequences},
                       {"tokens", built.tokens}});
  }
  log::info("{} of text in {}", format_bytes(static_cast<double>(report.input_bytes)),
            format_duration(report.seconds));
  if (flags.json)
    std::puts(Json({{"outputs", outputs},
                    {"skipped_documents", report.skipped_documents},
                    {"input_bytes", report.input_bytes},
                    {"seconds", report.seconds}})
                  .dump()
                  .c_str());
}

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

void add_build(CLI::App& data) {
  CLI::App* command = data.add_subcommand(
      "build",
      "Turn text (.tokens, .txt, .jsonl, each also as .gz or .zst) into a Megatron .bin/.idx dataset");
  const auto flags = std::make_shared<BuildFlags>();
  command->add_option("--tokenizer", flags->tokenizer, "tokenizer.json, or a directory that holds one")
      ->required();
  command->add_option("--input", flags->inputs, "text files, read in this order")->required();
  command->add_option("--output-prefix", flags->output_prefix, "P: writes P.bin, P.idx and P.meta.json")
      ->required();
  command->add_flag("--append-eod", flags->options.append_eod,
                    "end each document with the tokenizer's eos token");
  command->add_option("--json-key", flags->options.json_key, "the key of .jsonl lines that holds the text")
      ->capture_default_str();
  command->add_option("--workers", flags->workers, "threads; 0: all cores. The result does not depend on it")
      ->check(CLI::Range(0, 4096));
  command
      ->add_option(
          "--sequences", flags->sequences,
          "what is one sequence, the unit that training shuffles: document, line (lines that are not blank), "
          "or auto: line for .tokens, document for the others")
      ->check(CLI::IsMember({"auto", "document", "line"}))
      ->capture_default_str();
  command
      ->add_option("--seq-length", flags->options.seq_length,
                   "cut sequences longer than this many tokens into pieces (0: never)")
      ->check(CLI::NonNegativeNumber);
  command->add_option(
      "--split", flags->options.split,
      "parts for training, validation and test by documents, such as 98,1,1: writes P_train, P_valid, "
      "P_test");
  command->add_option("--on-error", flags->on_error, "a bad line or document: stop, or skip it and count it")
      ->check(CLI::IsMember({"skip", "stop"}))
      ->capture_default_str();
  command
      ->add_option("--special-tokens", flags->special_tokens,
                   "literal special-token text in the input: text (stays text) or encode (becomes its id)")
      ->check(CLI::IsMember({"text", "encode"}))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "print a report as JSON");
  command->footer(
      "Examples:\n"
      "  fathom data build --tokenizer assets/tokenizer --input assets/wikitext-2/wiki.train.tokens.zst \\\n"
      "      --output-prefix out/wiki_train --append-eod --sequences document\n"
      "  fathom data build --tokenizer DIR --input a.jsonl.gz b.jsonl.gz --json-key content --output-prefix "
      "out/corpus \\\n"
      "      --append-eod --split 98,1,1 --on-error skip");
  command->callback([flags] { run_build(*flags); });
}

void add_inspect_data(CLI::App& data) {
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

}  // namespace

void add_data(CLI::App& app) {
  CLI::App* command = app.add_subcommand("data", "Make and inspect training data");
  command->require_subcommand(1);
  add_build(*command);
  add_inspect_data(*command);
}

}  // namespace fathom::cli

// fathom data build: text files into an indexed dataset.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "cli/data_commands.h"
#include "data/builder.h"
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
}  // namespace

void add_data_build(CLI::App& data) {
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
}  // namespace fathom::cli

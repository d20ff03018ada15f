// fathom data build: text files into an indexed dataset.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "cli/data_commands.h"
#include "data/builder.h"
#include "data/corpus_inputs.h"
#include "tokenizer/tokenizer.h"

namespace fathom::cli {
namespace {

using data::SequenceUnit;

struct BuildFlags {
  data::BuildOptions options;
  std::vector<std::string> inputs;
  std::string input_list, shard;
  std::string tokenizer, output_prefix, on_error = "stop", special_tokens = "text", sequences = "auto";
  int workers = 0;
  bool json = false;
};

// Says which files of directories and patterns were left out.
void report_ignored(const std::vector<std::filesystem::path>& ignored) {
  constexpr size_t kShown = 3;
  if (ignored.empty()) return;
  std::string names;
  for (size_t i = 0; i < std::min(kShown, ignored.size()); ++i)
    names += (i > 0 ? ", " : "") + ignored[i].string();
  log::info("ignored, being no .tokens, .txt or .jsonl: {} file{} ({}{})", ignored.size(),
            ignored.size() == 1 ? "" : "s", names, ignored.size() > kShown ? ", ..." : "");
}

std::vector<std::filesystem::path> inputs_of(const BuildFlags& flags) {
  std::vector<std::string> names = flags.inputs;
  if (!flags.input_list.empty()) {
    const auto listed = data::read_input_list(flags.input_list);
    names.insert(names.end(), listed.begin(), listed.end());
  }
  if (names.empty())
    throw UsageError("no input: name files with --input, or a list of them with --input-list");
  data::CorpusInputs inputs = data::find_corpus_inputs(names);
  report_ignored(inputs.ignored);
  if (flags.shard.empty()) return inputs.files;
  auto files = data::corpus_shard(inputs.files, flags.shard);
  log::info("shard {}: {} of {} files, from {} to {}", flags.shard, files.size(), inputs.files.size(),
            files.front().string(), files.back().string());
  return files;
}

void run_build(BuildFlags& flags) {
  data::BuildOptions& options = flags.options;
  options.tokenizer = flags.tokenizer;
  options.output_prefix = flags.output_prefix;
  options.inputs = inputs_of(flags);
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
  int64_t tokens = report.dropped_tokens;
  for (const data::BuiltDataset& built : report.outputs) tokens += built.tokens;
  const double new_bytes = static_cast<double>(report.text_bytes - report.resumed_text_bytes);
  log::info("{} of text in {}, {}/s{}", format_bytes(new_bytes), format_duration(report.seconds),
            format_bytes(new_bytes / std::max(report.seconds, 1e-9)),
            report.resumed_text_bytes > 0
                ? fmt::format(" (after {} of an earlier run)",
                              format_bytes(static_cast<double>(report.resumed_text_bytes)))
                : "");
  if (report.dropped_tokens > 0)
    log::info("{} tokens at the end, less than a piece of --seq-length, were dropped", report.dropped_tokens);
  if (flags.json)
    std::puts(Json({{"outputs", outputs},
                    {"skipped_documents", report.skipped_documents},
                    {"errors", report.errors},
                    {"dropped_tokens", report.dropped_tokens},
                    {"tokens", tokens},
                    {"input_bytes", report.file_bytes},
                    {"text_bytes", report.text_bytes},
                    {"resumed_text_bytes", report.resumed_text_bytes},
                    {"seconds", report.seconds}})
                  .dump(-1, ' ', false, Json::error_handler_t::replace)
                  .c_str());
}
}  // namespace

void add_data_build(CLI::App& data) {
  CLI::App* command = data.add_subcommand(
      "build",
      "Turn text (.tokens, .txt, .jsonl, each also as .gz or .zst) into a Megatron .bin/.idx dataset");
  const auto flags = std::make_shared<BuildFlags>();
  command
      ->add_option("--tokenizer", flags->tokenizer,
                   "tokenizer.json, tiktoken.model, or a directory that holds one")
      ->required();
  command->add_option(
      "--input", flags->inputs,
      "text files, directories (all below them) and quoted patterns such as 'corpus/*.jsonl.gz', "
      "read in this order, files of a directory or pattern by name");
  command->add_option("--input-list", flags->input_list, "a file with more of these, one a line");
  command->add_option(
      "--shard", flags->shard,
      "I/N, I from 0: only the I-th of N parts of the files, cut where sizes are even. Parts built "
      "apart and joined in order by fathom data merge are the whole");
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
      ->add_option(
          "--seq-length", flags->options.seq_length,
          "lay all documents end to end and cut them into pieces of this many tokens and one, each a "
          "document; the rest at the end is dropped (0: keep documents)")
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
  command
      ->add_option(
          "--save-every", flags->options.save_every_seconds,
          "seconds between saves of what is done, in P.build/; the same command goes on from the last "
          "one")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--json", flags->json, "print a report as JSON");
  command->footer(
      "Examples:\n"
      "  fathom data build --tokenizer assets/tokenizer --input assets/wikitext-2/wiki.train.tokens.zst \\\n"
      "      --output-prefix out/wiki_train --append-eod --sequences document\n"
      "  fathom data build --tokenizer DIR --input a.jsonl.gz b.jsonl.gz --json-key content --output-prefix "
      "out/corpus \\\n"
      "      --append-eod --split 98,1,1 --on-error skip\n"
      "  fathom data build --tokenizer DIR --input 'corpus/*.jsonl.zst' --shard 3/16 --output-prefix "
      "out/part_03 --append-eod");
  command->callback([flags] { run_build(*flags); });
}
}  // namespace fathom::cli

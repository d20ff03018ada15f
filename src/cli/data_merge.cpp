// fathom data merge: datasets joined into one.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/log.h"
#include "base/progress.h"
#include "cli/data_commands.h"
#include "data/merge.h"

namespace fathom::cli {
namespace {

struct MergeFlags {
  data::MergeOptions options;
  std::vector<std::string> inputs;
  std::string output_prefix;
  int64_t seed = -1;
  bool json = false;
};

void run_merge(MergeFlags& flags) {
  flags.options.inputs.assign(flags.inputs.begin(), flags.inputs.end());
  flags.options.output_prefix = flags.output_prefix;
  if (flags.seed >= 0) flags.options.shuffle_seed = static_cast<uint64_t>(flags.seed);
  const data::MergeReport report = data::merge_datasets(flags.options);
  Json outputs = Json::array();
  uint64_t bytes = 0;
  for (const data::MergedDataset& merged : report.outputs) {
    log::info("{}.bin, .idx: {} documents, {} sequences, {} tokens", merged.prefix.string(), merged.documents,
              merged.sequences, merged.tokens);
    outputs.push_back({{"prefix", merged.prefix.string()},
                       {"documents", merged.documents},
                       {"sequences", merged.sequences},
                       {"tokens", merged.tokens},
                       {"bytes", merged.bytes}});
    bytes += merged.bytes;
  }
  log::info("{} in {}", format_bytes(static_cast<double>(bytes)), format_duration(report.seconds));
  if (flags.json) std::puts(Json({{"outputs", outputs}, {"seconds", report.seconds}}).dump().c_str());
}
}  // namespace

void add_data_merge(CLI::App& data) {
  CLI::App* command =
      data.add_subcommand("merge", "Join .bin/.idx datasets into one; shuffle or split one by documents");
  const auto flags = std::make_shared<MergeFlags>();
  command->add_option("datasets", flags->inputs, "prefixes, .bin or .idx files, joined in this order")
      ->required();
  command->add_option("--output-prefix", flags->output_prefix, "Q: writes Q.bin, Q.idx and Q.meta.json")
      ->required();
  command
      ->add_option("--shuffle-documents", flags->seed,
                   "put the documents in a random order, which this seed decides")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--split", flags->options.split,
                      "parts for training, validation and test by documents, such as 98,1,1: writes Q_train, "
                      "Q_valid, Q_test");
  command->add_flag(
      "--any-tokenizer", flags->options.any_tokenizer,
      "join also datasets whose .meta.json is missing or names another tokenizer; the result has "
      "no .meta.json");
  command->add_flag("--json", flags->json, "print a report as JSON");
  command->footer(
      "Examples:\n"
      "  fathom data merge shards/part-0 shards/part-1 --output-prefix data/corpus\n"
      "  fathom data merge data/corpus --output-prefix data/shuffled --shuffle-documents 1234 --split "
      "98,1,1");
  command->callback([flags] { run_merge(*flags); });
}
}  // namespace fathom::cli

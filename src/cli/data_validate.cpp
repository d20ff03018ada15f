// fathom data validate: reads a whole dataset and names the first fault.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "base/json.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "cli/data_commands.h"
#include "data/validate.h"

namespace fathom::cli {
namespace {

struct ValidateFlags {
  std::string path;
  int64_t vocab_size = 0;
  int workers = 0;
  bool json = false;
};

void run_validate(const ValidateFlags& flags) {
  set_num_threads(flags.workers);
  const data::ValidateReport report = data::validate_dataset({flags.path, flags.vocab_size});
  if (flags.json) {
    std::puts(Json({{"valid", true},
                    {"documents", report.documents},
                    {"sequences", report.sequences},
                    {"tokens", report.tokens},
                    {"empty_documents", report.empty_documents},
                    {"empty_sequences", report.empty_sequences},
                    {"vocab_size", report.vocab_size},
                    {"largest_id", report.largest_id},
                    {"eod_id", report.eod_id},
                    {"bytes", report.bytes},
                    {"seconds", report.seconds}})
                  .dump()
                  .c_str());
    return;
  }
  std::printf("valid: %s documents (%s empty), %s sequences (%s empty), %s tokens, largest id %d\n",
              format_integer(report.documents).c_str(), format_integer(report.empty_documents).c_str(),
              format_integer(report.sequences).c_str(), format_integer(report.empty_sequences).c_str(),
              format_integer(report.tokens).c_str(), report.largest_id);
  if (report.vocab_size > 0)
    std::printf("every id is below %s\n", format_integer(report.vocab_size).c_str());
  else
    std::printf("the vocabulary size is unknown: give --vocab-size to check against it\n");
  if (report.eod_id >= 0) std::printf("every document ends with id %d\n", report.eod_id);
  const auto bytes = static_cast<double>(report.bytes);
  std::printf("%s in %s (%s/s)\n", format_bytes(bytes).c_str(), format_duration(report.seconds).c_str(),
              format_bytes(bytes / std::max(report.seconds, 1e-9)).c_str());
}
}  // namespace

void add_data_validate(CLI::App& data) {
  CLI::App* command = data.add_subcommand(
      "validate", "Check every offset, every token and every document's end of a .bin/.idx dataset");
  const auto flags = std::make_shared<ValidateFlags>();
  command->add_option("path", flags->path, "the dataset: its prefix, .bin or .idx")->required();
  command
      ->add_option("--vocab-size", flags->vocab_size,
                   "every id must be below it (default: the one of P.meta.json, if there)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31));
  command->add_option("--workers", flags->workers, "threads; 0: all cores")->check(CLI::Range(0, 4096));
  command->add_flag("--json", flags->json, "print JSON");
  command->footer(
      "The first fault ends it, named by sequence, token and byte, with exit code 1.\n"
      "Examples:\n"
      "  fathom data validate data/train\n"
      "  fathom data validate data/made_elsewhere --vocab-size 129280 --json");
  command->callback([flags] { run_validate(*flags); });
}
}  // namespace fathom::cli

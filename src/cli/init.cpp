// fathom init: a random checkpoint of any size, written tensor by tensor.
#include <cstdio>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "checkpoint/init.h"
#include "cli/commands.h"

namespace fathom::cli {
namespace {

struct Options {
  std::string model, directory, dtype = "bf16", tokenizer;
  uint64_t seed = 1234;
};

void run(const Options& options) {
  if (options.dtype == "fp8")
    throw UsageError(
        "--dtype fp8 is not written directly: use bf16, then fathom convert DIR DST --dtype fp8");
  const formats::Dtype dtype = options.dtype == "fp32" ? formats::Dtype::F32 : formats::Dtype::BF16;
  const config::ModelConfig model = config::read_model_config(options.model);
  const uint64_t bytes =
      checkpoint::init_checkpoint(model, dtype, options.seed, options.directory, options.tokenizer);
  log::info("wrote {} of random weights to {}", format_bytes(static_cast<double>(bytes)), options.directory);
}

}  // namespace

void add_init(CLI::App& app) {
  CLI::App* command = app.add_subcommand("init", "Write a random checkpoint of a model");
  const auto options = std::make_shared<Options>();
  command->add_option("model", options->model, "an HF config.json, or a directory that holds one")
      ->required()
      ->option_text("MODEL_JSON");
  command->add_option("directory", options->directory, "where to write it; made if missing")
      ->required()
      ->option_text("DIR");
  command->add_option("--dtype", options->dtype, "bf16 (the default), fp32 or fp8")
      ->check(CLI::IsMember({"bf16", "fp32", "fp8"}));
  command->add_option("--seed", options->seed, "the same values as a training run with this seed (1234)");
  command->add_option("--tokenizer", options->tokenizer,
                      "copy this tokenizer (tokenizer.json, tiktoken.model, or the directory) along");
  command->footer(
      "Examples:\n"
      "  fathom init configs/models/tiny.json out/random\n"
      "  fathom init configs/models/1b.json out/random-1b --dtype fp32 --seed 7 --tokenizer "
      "assets/tokenizer");
  command->callback([options] { run(*options); });
}

}  // namespace fathom::cli

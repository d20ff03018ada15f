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
  std::string model, directory, dtype = "bf16", scale_format, tokenizer;
  uint64_t seed = 1234;
};

formats::Dtype dtype_of(const std::string& name) {
  if (name == "fp32") return formats::Dtype::F32;
  if (name == "fp16") return formats::Dtype::F16;
  return name == "fp8" ? formats::Dtype::F8_E4M3 : formats::Dtype::BF16;
}

void run(const Options& options) {
  if (!options.scale_format.empty() && options.dtype != "fp8")
    throw UsageError("--scale-fmt {} goes with --dtype fp8 only", options.scale_format);
  const auto scale_format =
      options.scale_format == "ue8m0" ? checkpoint::ScaleFormat::ue8m0 : checkpoint::ScaleFormat::float32;
  const config::ModelConfig model = config::read_model_config(options.model);
  const uint64_t bytes = checkpoint::init_checkpoint(model, dtype_of(options.dtype), options.seed,
                                                     options.directory, options.tokenizer, scale_format);
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
  command->add_option("--dtype", options->dtype, "bf16 (the default), fp32, fp16 or fp8 (128x128 blocks)")
      ->check(CLI::IsMember({"bf16", "fp32", "fp16", "fp8"}));
  command
      ->add_option("--scale-fmt", options->scale_format,
                   "with --dtype fp8: float32 scales (the default), or ue8m0 (powers of two)")
      ->check(CLI::IsMember({"float32", "ue8m0"}));
  command->add_option("--seed", options->seed, "the same values as a training run with this seed (1234)");
  command->add_option("--tokenizer", options->tokenizer,
                      "copy this tokenizer (tokenizer.json, tiktoken.model, or the directory) along");
  command->footer(
      "The same command goes on after a stop.\n"
      "Examples:\n"
      "  fathom init configs/models/tiny.json out/random\n"
      "  fathom init configs/models/tiny.json out/random-fp8 --dtype fp8 --scale-fmt ue8m0\n"
      "  fathom init configs/models/1b.json out/random-1b --dtype fp32 --seed 7 --tokenizer "
      "assets/tokenizer");
  command->callback([options] { run(*options); });
}

}  // namespace fathom::cli

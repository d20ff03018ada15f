// fathom convert: a checkpoint in another dtype, other file sizes, with fewer layers or experts.
#include <memory>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "checkpoint/convert.h"
#include "cli/commands.h"
#include "cli/shard_size.h"

namespace fathom::cli {
namespace {

struct Flags {
  std::string source, directory, format = "hf", max_shard_size = "5GB";
  checkpoint::ConvertOptions options;
};

void run(Flags& flags) {
  if (flags.format != "hf")
    throw UsageError("--format {} is not built yet: this version writes hf", flags.format);
  flags.options.max_shard_bytes = parse_shard_size(flags.max_shard_size);
  const checkpoint::ConvertReport report =
      checkpoint::convert_checkpoint(flags.source, flags.directory, flags.options);
  log::info("{}: {} tensors, {} in {} file{}", flags.directory, report.tensors,
            format_bytes(static_cast<double>(report.bytes)), report.files, report.files == 1 ? "" : "s");
}

}  // namespace

void add_convert(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "convert", "Write a checkpoint in another dtype or file size, or cut a smaller model out of it");
  const auto flags = std::make_shared<Flags>();
  command->add_option("source", flags->source, "the directory of an HF checkpoint")
      ->required()
      ->option_text("SRC");
  command->add_option("directory", flags->directory, "where to write; made if missing")
      ->required()
      ->option_text("DST");
  command
      ->add_option(
          "--format", flags->format,
          "hf (the default); mindformers-train, mindformers-train-gmm, mindformers-infer, mcore and gguf are "
          "not built yet")
      ->check(CLI::IsMember(
          {"hf", "mindformers-train", "mindformers-train-gmm", "mindformers-infer", "mcore", "gguf"}));
  command
      ->add_option("--dtype", flags->options.dtype,
                   "bf16, fp32, fp16 or fp8 (128x128 blocks); left out: as stored")
      ->check(CLI::IsMember({"bf16", "fp32", "fp16", "fp8"}));
  command
      ->add_option("--scale-fmt", flags->options.scale_format,
                   "with --dtype fp8: float32 scales, or ue8m0 (powers of two); left out: as the source's")
      ->check(CLI::IsMember({"float32", "ue8m0"}));
  command->add_option("--max-shard-size", flags->max_shard_size,
                      "of one file: 5GB (the default), 500MB, ...");
  command->add_option("--layers", flags->options.cut.layers,
                      "keep these layers of the trunk, such as 0-2,60; the MTP layers stay behind them");
  command->add_option("--experts", flags->options.cut.experts,
                      "keep these experts of every layer, such as 0-15");
  command->add_flag("--drop-mtp", flags->options.cut.drop_mtp, "leave the MTP layers out");
  command->footer(
      "A conversion that was stopped goes on when the same command is given again.\n"
      "Examples:\n"
      "  fathom convert DeepSeek-V3 DeepSeek-V3-bf16 --dtype bf16\n"
      "  fathom convert out/tiny/checkpoints/step_00001000 out/tiny-fp8 --dtype fp8\n"
      "  fathom convert DeepSeek-V3 small --layers 0-2,60 --experts 0-15 --drop-mtp --dtype bf16");
  command->callback([flags] { run(*flags); });
}

}  // namespace fathom::cli

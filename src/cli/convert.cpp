// fathom convert: a checkpoint in another dtype, other file sizes, with fewer layers or experts.
#include <memory>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "checkpoint/convert.h"
#include "checkpoint/gguf_export.h"
#include "cli/commands.h"

namespace fathom::cli {
namespace {

constexpr const char* kDefaultShardSize = "5GB";

struct Flags {
  std::string source, directory, format = "hf", max_shard_size = kDefaultShardSize;
  checkpoint::ConvertOptions options;
};

// "5GB", "500MB", "2e9": bytes, in decimal units.
uint64_t parse_bytes(const std::string& text) {
  size_t end = 0;
  double value = -1;
  try {
    value = std::stod(text, &end);
  } catch (const std::exception&) {
  }
  const std::string unit = text.substr(end);
  const double factor = unit == "GB" ? 1e9 : unit == "MB" ? 1e6 : unit == "kB" ? 1e3 : unit.empty() ? 1 : 0;
  const double bytes = value * factor;
  if (!(bytes >= 1 && bytes < 1e18))
    throw UsageError("--max-shard-size {}: write a size such as 5GB, 500MB or 2e9", text);
  return static_cast<uint64_t>(bytes);
}

void report(const std::string& destination, const checkpoint::ConvertReport& report) {
  log::info("{}: {} tensors, {} in {} file{}", destination, report.tensors,
            format_bytes(static_cast<double>(report.bytes)), report.files, report.files == 1 ? "" : "s");
}

void run(Flags& flags) {
  if (flags.format == "gguf") {
    if (!flags.options.scale_format.empty() || flags.max_shard_size != kDefaultShardSize)
      throw UsageError(
          "--format gguf writes one file without fp8: leave --scale-fmt and --max-shard-size out");
    checkpoint::GgufOptions options;
    options.dtype = flags.options.dtype;
    options.cut = flags.options.cut;
    return report(flags.directory, checkpoint::export_gguf(flags.source, flags.directory, options));
  }
  if (flags.format != "hf")
    throw UsageError("--format {} is not built yet: this version writes hf and gguf", flags.format);
  flags.options.max_shard_bytes = parse_bytes(flags.max_shard_size);
  report(flags.directory, checkpoint::convert_checkpoint(flags.source, flags.directory, flags.options));
}

}  // namespace

void add_convert(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "convert", "Write a checkpoint in another dtype or file size, or cut a smaller model out of it");
  const auto flags = std::make_shared<Flags>();
  command->add_option("source", flags->source, "the directory of an HF checkpoint")
      ->required()
      ->option_text("SRC");
  command->add_option("directory", flags->directory, "where to write; a directory is made if missing")
      ->required()
      ->option_text("DST");
  command
      ->add_option(
          "--format", flags->format,
          "hf (the default), or gguf: one file for llama.cpp, DST; mindformers-train, mindformers-train-gmm, "
          "mindformers-infer and mcore are not built yet")
      ->check(CLI::IsMember(
          {"hf", "mindformers-train", "mindformers-train-gmm", "mindformers-infer", "mcore", "gguf"}));
  command
      ->add_option("--dtype", flags->options.dtype,
                   "bf16, fp32, fp16, fp8 (128x128 blocks), and of gguf q8_0, q4_0; left out: as stored")
      ->check(CLI::IsMember({"bf16", "fp32", "fp16", "fp8", "q8_0", "q4_0"}));
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
      "A conversion that was stopped goes on when the same command is given again; one to gguf starts anew.\n"
      "Examples:\n"
      "  fathom convert DeepSeek-V3 DeepSeek-V3-bf16 --dtype bf16\n"
      "  fathom convert out/tiny/checkpoints/step_00001000 out/tiny-fp8 --dtype fp8\n"
      "  fathom convert DeepSeek-V3 small --layers 0-2,60 --experts 0-15 --drop-mtp --dtype bf16\n"
      "  fathom convert DeepSeek-V2-Lite DeepSeek-V2-Lite-q8_0.gguf --format gguf --dtype q8_0");
  command->callback([flags] { run(*flags); });
}

}  // namespace fathom::cli

// fathom convert: a checkpoint in another layout, dtype, other file sizes, with fewer layers or experts.
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "checkpoint/convert.h"
#include "checkpoint/gguf_export.h"
#include "checkpoint/run_directory.h"
#include "cli/commands.h"
#include "cli/shard_size.h"

namespace fathom::cli {
namespace {

struct Flags {
  std::string source, directory, format = "hf", max_shard_size, config, mtp_halves, mcore_version = "dev",
                                 mcore_fc1;
  std::vector<std::string> fuse;
  checkpoint::ConvertOptions options;
};

checkpoint::Layout parse_layout(const std::string& format) {
  using checkpoint::Layout;
  for (const Layout layout : {Layout::hf, Layout::mindformers_train, Layout::mindformers_train_gmm,
                              Layout::mindformers_infer, Layout::mcore})
    if (format == checkpoint::layout_name(layout)) return layout;
  throw UsageError("--format {}: there is no such format", format);
}

void set_source(const Flags& flags, checkpoint::SourceOptions& source) {
  source.config = flags.config;
  if (!flags.mtp_halves.empty()) source.swaps_mtp_halves = flags.mtp_halves == "swapped";
  if (!flags.mcore_fc1.empty()) source.has_interleaved_fc1 = flags.mcore_fc1 == "interleaved";
}

void set_layout(const Flags& flags, checkpoint::LayoutOptions& layout) {
  using checkpoint::Layout;
  layout.layout = parse_layout(flags.format);
  if (!flags.max_shard_size.empty() && layout.layout != Layout::hf)
    throw UsageError("--max-shard-size goes with --format hf: {} has a file for each layer", flags.format);
  if (!flags.fuse.empty() && layout.layout != Layout::mindformers_infer)
    throw UsageError("--fuse goes with --format mindformers-infer only");
  for (const std::string& part : flags.fuse)
    (part == "qkv" ? layout.has_fused_qkv : layout.has_fused_ffn) = true;
  if (flags.mcore_version == "r1.8") {
    layout.mcore_version = checkpoint::McoreVersion::r1_8;
    layout.has_interleaved_fc1 = true;
  }
  if (!flags.mtp_halves.empty()) layout.swaps_mtp_halves = flags.mtp_halves == "swapped";
  if (!flags.mcore_fc1.empty()) layout.has_interleaved_fc1 = flags.mcore_fc1 == "interleaved";
}

void report(const std::string& destination, const checkpoint::ConvertReport& report) {
  log::info("{}: {} tensors, {} in {} file{}", destination, report.tensors,
            format_bytes(static_cast<double>(report.bytes)), report.files, report.files == 1 ? "" : "s");
}

void run(Flags& flags) {
  const std::filesystem::path source = checkpoint::resolve_checkpoint(flags.source);
  if (flags.format == "gguf") {
    if (!flags.options.scale_format.empty() || !flags.max_shard_size.empty())
      throw UsageError(
          "--format gguf writes one file without fp8: leave --scale-fmt and --max-shard-size out");
    checkpoint::GgufOptions options;
    options.dtype = flags.options.dtype;
    options.cut = flags.options.cut;
    set_source(flags, options.source);
    return report(flags.directory, checkpoint::export_gguf(source, flags.directory, options));
  }
  set_source(flags, flags.options.source);
  set_layout(flags, flags.options.layout);
  if (!flags.max_shard_size.empty()) flags.options.max_shard_bytes = parse_shard_size(flags.max_shard_size);
  report(flags.directory, checkpoint::convert_checkpoint(source, flags.directory, flags.options));
}

}  // namespace

void add_convert(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "convert",
      "Write a checkpoint in another layout, dtype or file size, or cut a smaller model out of it");
  const auto flags = std::make_shared<Flags>();
  command
      ->add_option("source", flags->source,
                   "the directory of an HF or MindFormers checkpoint, or of a run: its newest good one")
      ->required()
      ->option_text("SRC");
  command->add_option("directory", flags->directory, "where to write; a directory is made if missing")
      ->required()
      ->option_text("DST");
  command
      ->add_option(
          "--format", flags->format,
          "hf (the default), mindformers-train, mindformers-train-gmm, mindformers-infer, mcore, or gguf: "
          "one file for llama.cpp, DST")
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
                      "of one file, with --format hf: 5GB (the default), 500MB, ...");
  command->add_option("--layers", flags->options.cut.layers,
                      "keep these layers of the trunk, such as 0-2,60; the MTP layers stay behind them");
  command->add_option("--experts", flags->options.cut.experts,
                      "keep these experts of every layer, such as 0-15");
  command->add_flag("--drop-mtp", flags->options.cut.drop_mtp, "leave the MTP layers out");
  command
      ->add_option("--config", flags->config,
                   "the HF config.json of SRC's model, where SRC has none (MindFormers') or a wrong one")
      ->option_text("PATH");
  command
      ->add_option("--mtp-halves", flags->mtp_halves,
                   "of eh_proj in mindformers-train*: swapped (the default: the hidden state first, as that "
                   "training reads it) or as-is (as convert_weight.py writes it)")
      ->check(CLI::IsMember({"swapped", "as-is"}));
  command
      ->add_option("--mcore-version", flags->mcore_version,
                   "names to write with --format mcore: dev (the default) or r1.8")
      ->check(CLI::IsMember({"dev", "r1.8"}));
  command
      ->add_option("--mcore-fc1", flags->mcore_fc1,
                   "rows of mcore's linear_fc1: stacked (gate, then up; dev's) or interleaved (r1.8's)")
      ->check(CLI::IsMember({"stacked", "interleaved"}));
  command
      ->add_option("--fuse", flags->fuse,
                   "with --format mindformers-infer: qkv, ffn or both, as its qkv_concat and ffn_concat want")
      ->delimiter(',')
      ->check(CLI::IsMember({"qkv", "ffn"}))
      ->option_text("PARTS");
  command->footer(
      "A conversion that was stopped goes on when the same command is given again; one to gguf starts anew.\n"
      "Examples:\n"
      "  fathom convert DeepSeek-V3 DeepSeek-V3-bf16 --dtype bf16\n"
      "  fathom convert out/tiny out/tiny-fp8 --dtype fp8\n"
      "  fathom convert DeepSeek-V3 small --layers 0-2,60 --experts 0-15 --drop-mtp --dtype bf16\n"
      "  fathom convert DeepSeek-V3 ms-train --format mindformers-train-gmm\n"
      "  fathom convert unified_safe trained-hf --config DeepSeek-V3/config.json --dtype bf16\n"

      "  fathom convert DeepSeek-V2-Lite DeepSeek-V2-Lite-q8_0.gguf --format gguf --dtype q8_0");
  command->callback([flags] { run(*flags); });
}

}  // namespace fathom::cli

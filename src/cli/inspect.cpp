// fathom inspect: what is in a checkpoint, a safetensors file or a config.json; how two of them differ.
#include <cstdio>
#include <memory>
#include <string>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/inspect_gguf.h"
#include "cli/inspect_text.h"
#include "formats/gguf.h"

namespace fathom::cli {
namespace {

struct Options {
  std::string path, other;
  bool json = false, tensors = false, checksum = false;
};

void print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    throw FileError("cannot write to standard output");
}

void run(const Options& options) {
  if (formats::is_gguf_file(options.path)) {
    if (!options.other.empty() || options.checksum)
      throw UsageError("--diff and --checksum are for checkpoints, not GGUF files: {}", options.path);
    return print(gguf_report(options.path, options.json, options.tensors));
  }
  checkpoint::Inspection inspection = checkpoint::inspect(options.path);
  if (options.checksum) checkpoint::add_checksums(inspection);
  Json json = options.json ? to_json(inspection) : Json();
  if (!options.other.empty()) {
    const checkpoint::Inspection other = checkpoint::inspect(options.other);
    const checkpoint::CheckpointDifference difference = checkpoint::compare(inspection, other);
    if (options.json)
      json["diff"] = to_json(difference);
    else
      print(to_text(difference, inspection, other, options.tensors));
  } else if (!options.json) {
    print(to_text(inspection, options.tensors));
  }
  if (options.json) print(json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  if (!inspection.manifest_fault.empty())
    throw CheckpointError("{}: {}", inspection.path.string(), inspection.manifest_fault);
}

}  // namespace

void add_inspect(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("inspect", "Show what is in a checkpoint, safetensors file or config.json");
  const auto options = std::make_shared<Options>();
  command
      ->add_option(
          "path", options->path,
          "a checkpoint directory, a run's output directory (its newest good checkpoint), a .safetensors "
          "or .gguf file, or a config.json")
      ->required()
      ->option_text("PATH");
  command->add_option("--diff", options->other,
                      "compare with this one: tensors that only one has, that differ, and by how much");
  command->add_flag(
      "--checksum", options->checksum,
      "read everything: XXH3 of each tensor and of all, whatever the files' cuts and order; verifies "
      "a training checkpoint's manifest");
  command->add_flag("--tensors", options->tensors, "list every tensor (with --diff: every difference)");
  command->add_flag("--json", options->json, "print one JSON object, tensors included");
  command->footer(
      "Examples:\n"
      "  fathom inspect out/tiny\n"
      "  fathom inspect configs/models/deepseek-v3-671b.json --tensors\n"
      "  fathom inspect DeepSeek-V3 --checksum --json | jq .checksum\n"
      "  fathom inspect DeepSeek-V2-Lite-q8_0.gguf --tensors\n"
      "  fathom inspect A --diff B --json | jq .diff");
  command->callback([options] { run(*options); });
}

}  // namespace fathom::cli

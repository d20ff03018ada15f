// fathom quantize: a checkpoint with int8, int4 or fp8 weights, and what that loses of each layer.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/progress.h"
#include "checkpoint/mindformers_w8a8.h"
#include "checkpoint/quantize.h"
#include "checkpoint/run_directory.h"
#include "cli/calibration_flags.h"
#include "cli/commands.h"
#include "cli/shard_size.h"

namespace fathom::cli {
namespace {

using checkpoint::ErrorSums;
using checkpoint::QuantizedTensor;
using checkpoint::QuantizeReport;

struct Flags {
  std::string source, directory, max_shard_size;
  std::vector<std::string> fuse;
  bool json = false;
  checkpoint::QuantizeOptions options;
  CalibrationFlags calibration;
};

struct HeldOut {
  eval::Perplexity before, after;
};

struct Part {
  size_t tensors = 0, unmeasured = 0;
  ErrorSums error;
  void add(const QuantizedTensor& tensor) {
    ++tensors;
    if (tensor.error.elements == 0) ++unmeasured;
    error.add(tensor.error);
  }
};

// By layer; what is outside the layers (the head) stands last.
std::vector<std::pair<std::string, Part>> by_layer(const QuantizeReport& report) {
  std::map<int64_t, Part> layers;
  for (const QuantizedTensor& tensor : report.tensors)
    layers[tensor.layer < 0 ? INT64_MAX : tensor.layer].add(tensor);
  std::vector<std::pair<std::string, Part>> result;
  for (const auto& [layer, part] : layers)
    result.emplace_back(layer == INT64_MAX ? "lm_head" : std::to_string(layer), part);
  return result;
}

Json error_json(const ErrorSums& error) {
  if (error.elements == 0) return {{"relative_error", nullptr}, {"max_error", nullptr}};
  return {{"relative_error", error.relative()}, {"max_error", error.largest_error}};
}

Json calibration_json(const std::vector<quantize::LayerReport>& layers) {
  Json json = Json::array();
  for (const quantize::LayerReport& layer : layers)
    json.push_back({{"layer", layer.layer},
                    {"output_error", layer.output_error},
                    {"expert_tokens", layer.expert_tokens},
                    {"starved_experts", layer.starved_experts}});
  return json;
}

Json to_json(const Flags& flags, const QuantizeReport& report) {
  Json json = {{"scheme", flags.options.scheme},
               {"directory", flags.directory},
               {"bytes", report.written.bytes},
               {"source_bytes", report.source_bytes},
               {"files", report.written.files}};
  Json& layers = json["layers"] = Json::array();
  for (const auto& [name, part] : by_layer(report)) {
    Json layer = error_json(part.error);
    layer["layer"] = name;
    layer["tensors"] = part.tensors;
    layers.push_back(std::move(layer));
  }
  Json& tensors = json["tensors"] = Json::array();
  for (const QuantizedTensor& tensor : report.tensors) {
    Json entry = error_json(tensor.error);
    entry["name"] = tensor.name;
    entry["format"] = tensor.format;
    tensors.push_back(std::move(entry));
  }
  return json;
}

std::string to_text(const QuantizeReport& report) {
  if (report.tensors.empty()) return "";
  std::string text =
      fmt::format("{:<8} {:>9} {:>15} {:>12}\n", "layer", "matrices", "relative error", "max error");
  Part all;
  for (const auto& [name, part] : by_layer(report)) {
    text += fmt::format("{:<8} {:>9} {:>15.5f} {:>12.4g}\n", name, part.tensors, part.error.relative(),
                        part.error.largest_error);
    all.error.add(part.error);
    all.tensors += part.tensors;
    all.unmeasured += part.unmeasured;
  }
  text += fmt::format("{:<8} {:>9} {:>15.5f} {:>12.4g}\n", "all", all.tensors, all.error.relative(),
                      all.error.largest_error);
  if (all.unmeasured > 0)
    text += fmt::format("{} matrices were written by an earlier run and are not in these numbers\n",
                        all.unmeasured);
  return text;
}

void run(Flags& flags) {
  if (!flags.max_shard_size.empty()) {
    if (flags.options.scheme == checkpoint::kW8A8Scheme)
      throw UsageError("--max-shard-size goes with the other schemes: {} has a file for each layer",
                       flags.options.scheme);
    flags.options.max_shard_bytes = parse_shard_size(flags.max_shard_size);
  }
  for (const std::string& part : flags.fuse)
    (part == "qkv" ? flags.options.has_fused_qkv : flags.options.has_fused_ffn) = true;
  flags.calibration.check(flags.options);
  flags.source = checkpoint::resolve_checkpoint(flags.source).string();
  std::optional<HeldOutText> text_of_eval;  // read before the work: a mistake in it shows at once
  if (!flags.calibration.eval_text.empty()) text_of_eval.emplace(flags.source, flags.calibration);
  const quantize::CalibratedReport calibrated =
      run_quantize(flags.source, flags.directory, flags.options, flags.calibration);
  const QuantizeReport& report = calibrated.files;
  std::optional<HeldOut> held_out;
  if (text_of_eval)
    held_out = HeldOut{text_of_eval->perplexity(flags.source), text_of_eval->perplexity(flags.directory)};
  std::string text;
  if (flags.json) {
    Json json = to_json(flags, report);
    if (flags.calibration.calibrates()) json["calibration"] = calibration_json(calibrated.layers);
    if (held_out)
      json["perplexity"] = {{"before", held_out->before.perplexity()},
                            {"after", held_out->after.perplexity()},
                            {"tokens", held_out->before.tokens}};
    text = json.dump() + "\n";
  } else {
    text = to_text(report);
    if (held_out)
      text += fmt::format("perplexity on {}: {:.4f} before, {:.4f} after, {} tokens\n",
                          flags.calibration.eval_text, held_out->before.perplexity(),
                          held_out->after.perplexity(), held_out->before.tokens);
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  log::info("{}: {} in {} file{} (the source holds {})", flags.directory,
            format_bytes(static_cast<double>(report.written.bytes)), report.written.files,
            report.written.files == 1 ? "" : "s", format_bytes(static_cast<double>(report.source_bytes)));
}

}  // namespace

void add_quantize(CLI::App& app) {
  CLI::App* command = app.add_subcommand("quantize", "Write a checkpoint with int8, int4 or fp8 weights");
  const auto flags = std::make_shared<Flags>();
  command
      ->add_option("source", flags->source,
                   "the directory of an HF checkpoint: bf16, fp16, fp32, or fp8 as published")
      ->required()
      ->option_text("SRC");
  command->add_option("directory", flags->directory, "where to write; made if missing")
      ->required()
      ->option_text("DST");
  command
      ->add_option(
          "--scheme", flags->options.scheme,
          "w8a8: int8 with a scale a row, activations int8 as they come; int4: weights only, a scale a "
          "group; fp8: DeepSeek's 128x128 blocks; mindformers-w8a8: for MindFormers' inference, attention's "
          "activations by scales found in a text")
      ->required()
      ->check(CLI::IsMember({"w8a8", "int4", "fp8", checkpoint::kW8A8Scheme}));
  command->add_option("--group-size", flags->options.group_size,
                      "of int4: 128 (the default), 64 or 32 columns a scale, or -1: one scale a row");
  command
      ->add_option("--lm-head", flags->options.lm_head,
                   "keep (the default), int8 or int4: readers other than Fathom may want keep")
      ->check(CLI::IsMember({"keep", "int8", "int4"}));
  command
      ->add_option("--scale-fmt", flags->options.scale_format,
                   "of fp8: float32 scales, or ue8m0 (powers of two); left out: as the source's")
      ->check(CLI::IsMember({"float32", "ue8m0"}));
  command->add_option("--max-shard-size", flags->max_shard_size,
                      "of one file: 5GB (the default), 500MB, ...");
  command
      ->add_option("--fuse", flags->fuse,
                   "of mindformers-w8a8: qkv, ffn or both, as its qkv_concat and ffn_concat want")
      ->delimiter(',')
      ->check(CLI::IsMember({"qkv", "ffn"}))
      ->option_text("PARTS");
  command->add_flag("--json", flags->json, "print one JSON object: the error of every matrix");
  flags->calibration.add_to(*command);
  command->footer(
      "Embedding, norms, router, kv_b_proj and eh_proj stay as they are. Prints what the codes lose of each\n"
      "layer's weights. A run that was stopped goes on when the same command is given again.\n"
      "Examples:\n"
      "  fathom quantize DeepSeek-V3 DeepSeek-V3-w8a8 --scheme w8a8\n"
      "  fathom quantize out/tiny/checkpoints/step_00001000 out/tiny-int4 --scheme int4 --group-size 32\n"
      "  fathom quantize SRC DST --scheme int4 --calibration wiki.train.txt --eval-text wiki.valid.txt\n"
      "  fathom quantize SRC DST --scheme w8a8 --calibration wiki.train.txt --smoothquant 0.5\n"
      "  fathom quantize SRC DST --scheme mindformers-w8a8 --calibration wiki.train.txt\n"
      "  fathom quantize SRC DST --scheme int4 --lm-head int8 --json | jq .layers");
  command->callback([flags] { run(*flags); });
}

}  // namespace fathom::cli

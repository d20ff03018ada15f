// fathom inspect: what is in a checkpoint, a safetensors file or a config.json; how two of them differ.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "base/progress.h"
#include "checkpoint/inspect.h"
#include "cli/commands.h"
#include "cli/inspect_gguf.h"
#include "formats/gguf.h"

namespace fathom::cli {
namespace {

using checkpoint::CheckpointDifference;
using checkpoint::Inspection;

struct Options {
  std::string path, other;
  bool json = false, tensors = false;
};

constexpr size_t kShownNames = 10;

void print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    throw FileError("cannot write to standard output");
}

Json diff_json(const CheckpointDifference& difference) {
  Json json = {{"identical", difference.identical()},
               {"compared", difference.compared},
               {"only_first", difference.only_first},
               {"only_second", difference.only_second},
               {"differing", Json::array()}};
  for (const auto& tensor : difference.differing) {
    Json& item = json["differing"].emplace_back(Json{{"name", tensor.name}, {"what", tensor.what}});
    if (tensor.what != "values") continue;
    item["elements"] = tensor.elements;
    item["max_absolute"] = tensor.max_absolute;  // infinity becomes null
  }
  return json;
}

Json to_json(const Inspection& inspection) {
  Json json = {{"path", inspection.path.string()},
               {"kind", inspection.kind},
               {"total_parameters", inspection.total_parameters()},
               {"active_parameters", inspection.counts ? Json(inspection.counts->activated) : Json(nullptr)}};
  if (inspection.counts) json["mtp_parameters"] = inspection.counts->mtp;
  json["stored_parameters"] = inspection.stored_parameters;
  if (inspection.model) json["model_type"] = inspection.model->model_type;
  json["bytes_by_dtype"] = inspection.bytes_by_dtype;
  if (inspection.has_manifest) {
    json["manifest"] = {{"verified", inspection.manifest_fault.empty()},
                        {"files", inspection.manifest_files}};
    if (!inspection.manifest_fault.empty()) json["manifest"]["fault"] = inspection.manifest_fault;
  }
  if (inspection.kind == "checkpoint" && inspection.model) {
    json["missing"] = inspection.missing;
    json["unexpected"] = inspection.unexpected;
  }
  Json& tensors = json["tensors"] = Json::array();
  for (const auto& tensor : inspection.tensors) {
    const bool is_stored = !tensor.file.empty();
    tensors.push_back({{"name", tensor.name},
                       {"dtype", tensor.dtype},
                       {"shape", tensor.shape},
                       {"file", is_stored ? Json(tensor.file) : Json(nullptr)},
                       {"offset", is_stored ? Json(tensor.offset) : Json(nullptr)}});
  }
  return json;
}

std::string name_list(const char* title, const std::vector<std::string>& names) {
  if (names.empty()) return "";
  std::string text = fmt::format("{} {}:\n", names.size(), title);
  for (size_t i = 0; i < std::min(names.size(), kShownNames); ++i) text += "  " + names[i] + "\n";
  if (names.size() > kShownNames)
    text += fmt::format("  and {} more (--json lists all)\n", names.size() - kShownNames);
  return text;
}

std::string to_text(const Inspection& inspection, bool with_tensors) {
  std::string text = fmt::format("{} ({})\n", inspection.path.string(), inspection.kind);
  if (inspection.model) text += fmt::format("model_type         {}\n", inspection.model->model_type);
  text += fmt::format("total parameters   {}\n", inspection.total_parameters());
  if (inspection.counts)
    text += fmt::format("active parameters  {}\nMTP parameters     {}\n", inspection.counts->activated,
                        inspection.counts->mtp);
  text += fmt::format("tensors            {}\n", inspection.tensors.size());
  for (const auto& [dtype, bytes] : inspection.bytes_by_dtype)
    text += fmt::format("  {:<16} {}\n", dtype, format_bytes(static_cast<double>(bytes)));
  if (inspection.has_manifest && inspection.manifest_fault.empty())
    text += fmt::format("manifest           {} files, sizes and checksums hold\n", inspection.manifest_files);
  text += name_list("tensors that the config implies are missing", inspection.missing);
  text += name_list("tensors are unknown to the config", inspection.unexpected);
  if (with_tensors)
    for (const auto& tensor : inspection.tensors)
      text += fmt::format("{:<8} {:<16} {}{}\n", tensor.dtype, Json(tensor.shape).dump(), tensor.name,
                          tensor.file.empty() ? "" : fmt::format("  {}:{}", tensor.file, tensor.offset));
  return text;
}

std::string to_text(const CheckpointDifference& difference) {
  if (difference.identical()) return fmt::format("identical: {} tensors compared\n", difference.compared);
  std::string text = name_list("tensors are only in the first", difference.only_first) +
                     name_list("tensors are only in the second", difference.only_second);
  std::vector<std::string> lines;
  for (const auto& tensor : difference.differing)
    lines.push_back(tensor.what != "values" ? fmt::format("{}: {}", tensor.name, tensor.what)
                                            : fmt::format("{}: {} elements differ, by at most {:.6g}",
                                                          tensor.name, tensor.elements, tensor.max_absolute));
  return text + name_list("tensors differ", lines);
}

void run(const Options& options) {
  if (formats::is_gguf_file(options.path)) {
    if (!options.other.empty())
      throw UsageError("--diff compares checkpoints, not GGUF files: {}", options.path);
    return print(gguf_report(options.path, options.json, options.tensors));
  }
  const Inspection inspection = checkpoint::inspect(options.path);
  if (options.other.empty()) {
    print(options.json ? to_json(inspection).dump() + "\n" : to_text(inspection, options.tensors));
  } else {
    const CheckpointDifference difference =
        checkpoint::compare(inspection, checkpoint::inspect(options.other));
    if (options.json) {
      Json json = to_json(inspection);
      json["diff"] = diff_json(difference);
      print(json.dump() + "\n");
    } else {
      print(to_text(difference));
    }
  }
  if (!inspection.manifest_fault.empty())
    throw CheckpointError("{}: {}", inspection.path.string(), inspection.manifest_fault);
}

}  // namespace

void add_inspect(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("inspect", "Show what is in a checkpoint, safetensors file or config.json");
  const auto options = std::make_shared<Options>();
  command
      ->add_option("path", options->path,
                   "a checkpoint directory (its manifest is verified), a run's output directory (its newest "
                   "checkpoint), a .safetensors or .gguf file, or a config.json")
      ->required()
      ->option_text("PATH");
  command->add_option("--diff", options->other, "compare with this one: names, dtypes, shapes, every value");
  command->add_flag("--tensors", options->tensors, "list every tensor");
  command->add_flag("--json", options->json, "print one JSON object, tensors included");
  command->footer(
      "Examples:\n"
      "  fathom inspect out/tiny/checkpoints/step_00000200\n"
      "  fathom inspect configs/models/deepseek-v3-671b.json --tensors\n"
      "  fathom inspect DeepSeek-V2-Lite-q8_0.gguf --tensors\n"
      "  fathom inspect A --diff B --json | jq .diff");
  command->callback([options] { run(*options); });
}

}  // namespace fathom::cli

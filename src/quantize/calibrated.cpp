#include "quantize/calibrated.h"

#include <map>
#include <memory>
#include <utility>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "checkpoint/convert_journal.h"
#include "checkpoint/mindformers_w8a8.h"
#include "checkpoint/source_tensors.h"
#include "quantize/smoothquant.h"

namespace fathom::quantize {
namespace {

using checkpoint::TensorView;

Json description(const std::vector<model::Window>& windows, config::Precision precision,
                 const checkpoint::QuantizeOptions& files, const CalibrationOptions& calibration) {
  uint32_t sum = 0;
  for (const model::Window& window : windows)
    sum = crc32c(window.tokens.data(), window.tokens.size() * sizeof(window.tokens[0]), sum);
  Json json = {{"samples", windows.size()},
               {"tokens_crc32c", sum},
               {"method", calibration.method == Method::gptq ? "gptq" : "rtn"},
               {"precision", precision == config::Precision::bf16 ? "bf16" : "fp32"},
               {"scheme", files.scheme},
               {"group_size", files.group_size}};
  if (calibration.method == Method::gptq) {
    json["damping"] = calibration.gptq.damping;
    json["act_order"] = calibration.gptq.act_order;
    json["min_expert_tokens"] = calibration.min_expert_tokens;
  }
  if (calibration.suppresses_outliers) json["suppresses_outliers"] = true;
  if (calibration.smoothing) json["smoothing"] = *calibration.smoothing;
  return json;
}

// What a tensor of the source is multiplied by, per channel of its last dimension.
std::map<std::string, std::vector<float>> smoothing_factors(const CalibrationStore& store,
                                                            const config::TensorTable& table,
                                                            int64_t num_layers) {
  std::map<std::string, std::vector<float>> factors;
  for (int64_t layer = 0; layer < num_layers; ++layer)
    for (const SmoothingGroup& group : smoothing_groups(table, layer)) {
      std::vector<float> scales = store.smoothing(layer, group.norm);
      if (scales.empty()) continue;
      for (const std::string& reader : group.readers) factors[reader] = scales;
      for (float& scale : scales) scale = 1 / scale;
      factors[group.norm] = std::move(scales);
    }
  return factors;
}

}  // namespace

CalibratedReport quantize_calibrated(const std::filesystem::path& source,
                                     const std::filesystem::path& directory,
                                     const std::vector<model::Window>& windows, config::Precision precision,
                                     checkpoint::QuantizeOptions files, CalibrationOptions calibration) {
  if (windows.empty()) throw UsageError("the calibration text holds no token to calibrate with");
  if (files.scheme == "fp8")
    throw UsageError("calibration goes with int8 and int4: fp8 blocks are scaled by their largest value");
  const bool is_mindformers = files.scheme == checkpoint::kW8A8Scheme;
  if (is_mindformers && (calibration.method == Method::gptq || calibration.smoothing))
    throw UsageError("{} rounds to nearest and suppresses outliers by itself: leave gptq and smoothing out",
                     files.scheme);
  calibration.suppresses_outliers = is_mindformers;
  const checkpoint::SourceTensors tensors = checkpoint::open_source(source);
  checkpoint::refuse_other_checkpoint(directory);  // before the long part, not behind it
  const config::TensorTable table(tensors.model);
  calibration.is_stopped = files.is_stopped;
  calibration.grid_of = [&](const config::TensorSpec& spec) -> std::optional<Grid> {
    if (spec.layer < 0) return std::nullopt;  // the head is rounded to nearest
    bool is_tied = false;
    const std::optional<checkpoint::IntFormat> format = checkpoint::int_format(
        tensors.model, spec, checkpoint::source_tensor(tensors, table, spec.name, is_tied).dtype, files);
    return format ? std::optional(grid_of(*format)) : std::nullopt;
  };

  uint64_t codes =
      0;  // asks every matrix for its grid once, which refuses what does not fit before anything is written
  for (const config::TensorSpec& spec : table.tensors())
    if (calibration.grid_of(spec)) codes += static_cast<uint64_t>(spec.numel());
  if (codes == 0)
    throw UsageError("{}: no matrix is quantised that calibration could change", source.string());
  const uint64_t available = free_disk_bytes(directory);
  if (calibration.method == Method::gptq && available < codes)
    throw FileError(
        "{}: too little disk: calibration keeps {} of codes until the files are written, {} is free",
        directory.string(), format_bytes(static_cast<double>(codes)),
        format_bytes(static_cast<double>(available)));

  Json plan = description(windows, precision, files, calibration);
  const auto store = std::make_shared<CalibrationStore>(
      directory / kCalibrationFolder, Json{{"source", tensors.identity}, {"calibration", plan}});
  config::ModelConfig calibrated = tensors.model;
  if (is_mindformers) calibrated.num_nextn_predict_layers = 0;  // they stay as they are
  LayerStream stream(source, calibrated, precision, windows);
  calibrate(stream, *store, calibration);
  log_report(*store, stream, calibration);

  CalibratedReport report;
  for (int64_t layer = 0; layer < stream.num_blocks(); ++layer) report.layers.push_back(store->report(layer));
  const auto factors = std::make_shared<const std::map<std::string, std::vector<float>>>(
      smoothing_factors(*store, table, stream.num_blocks()));
  files.calibration = std::move(plan);
  files.transform = [factors](TensorView view) {
    const auto found = factors->find(view.name);
    return found == factors->end() ? view : scaled(std::move(view), found->second);
  };
  if (is_mindformers)
    files.static_inputs = [store, &table](const std::string& name) {
      const auto range = store->input_range(table.at(name).layer, name);
      FATHOM_ASSERT(range.has_value());
      return checkpoint::static_activation(range->first, range->second);
    };
  files.encode = [store, &table](const TensorView& matrix,
                                 const checkpoint::IntFormat&) -> std::optional<checkpoint::IntCodes> {
    const config::TensorSpec* spec = table.find(matrix.name);
    if (!spec) return std::nullopt;
    std::optional<CodedMatrix> found = store->matrix(spec->layer, spec->name);
    return found ? std::optional(std::move(found->codes)) : std::nullopt;
  };
  report.files = checkpoint::quantize_checkpoint(source, directory, files);
  store->remove();
  return report;
}

}  // namespace fathom::quantize

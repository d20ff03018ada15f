// The calibration pass: texts through the model, layer by layer, and what the quantised layer should be. A layer's
// weights are in memory once, the hidden states of all samples twice (three times with GPTQ), and one Hessian a weight
// of the layer, of the routed experts one at a time; results go to disk layer by layer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/stop_signal.h"
#include "quantize/calibration_store.h"
#include "quantize/gptq.h"
#include "quantize/layer_stream.h"

namespace fathom::quantize {

enum class Method { round_to_nearest, gptq };

struct CalibrationOptions {
  Method method = Method::gptq;
  GptqOptions gptq;
  std::optional<double> smoothing;   // SmoothQuant's alpha
  bool suppresses_outliers = false;  // Outlier Suppression+ in attention; not with smoothing
  int64_t min_expert_tokens = 128;   // experts that got fewer are rounded to nearest
  // The grid of a matrix in a layer; nullopt: it is not quantised.
  std::function<std::optional<Grid>(const config::TensorSpec&)> grid_of;
  std::function<bool()> is_stopped = stop_requested;
};

// Runs the layers that `store` lacks; the ones that it has are repeated without being searched again, so that the next
// one sees the inputs that it would have seen. With GPTQ a layer's inputs are the outputs of the quantised layers before
// it; rounding to nearest calibrates on the source's. Throws NumericError naming the layer (NaN or infinity in its
// output), CheckpointError, FileError; Error when stopped.
void calibrate(LayerStream& stream, CalibrationStore& store, const CalibrationOptions& options);

// Sorts `values` and says "min a, median b, max c".
std::string spread(std::vector<int64_t> values);

// Tokens per expert, starved experts by name, error of each layer: one log line each, the starved ones as warnings.
void log_report(const CalibrationStore& store, const LayerStream& stream, const CalibrationOptions& options);

}  // namespace fathom::quantize

#include "quantize/calibrate.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/mm.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "ops/activation.h"
#include "quantize/input_statistics.h"
#include "quantize/outlier_suppression.h"
#include "quantize/smoothquant.h"

namespace fathom::quantize {
namespace {

using weights::Parameter;
using weights::Piece;

bool is_experts(const Parameter& parameter) {
  return parameter.pieces.front().spec->role == config::TensorRole::routed_expert;
}

std::vector<float> to_vector(const at::Tensor& values) {
  const at::Tensor dense = values.to(at::kFloat).contiguous();
  return {dense.const_data_ptr<float>(), dense.const_data_ptr<float>() + dense.numel()};
}

at::Tensor to_tensor(const std::vector<float>& values) {
  return at::from_blob(const_cast<float*>(values.data()), {static_cast<int64_t>(values.size())},
                       at::TensorOptions().dtype(at::kFloat))
      .clone();
}

class Pass {
 public:
  Pass(LayerStream& stream, CalibrationStore& store, const CalibrationOptions& options)
      : stream_(stream),
        store_(store),
        options_(options),
        table_(stream.model()),
        progress_("calibrating", total_parameters(), "parameters") {}

  void run() {
    int64_t missing = 0;  // the first layer without results: those behind the last one need no forward pass
    for (int64_t layer = 0; layer < stream_.num_blocks(); ++layer) missing += !store_.has(layer);
    if (missing == 0) return;
    if (missing < stream_.num_blocks())
      log::info("calibration goes on: {} of {} layers are done", stream_.num_blocks() - missing,
                stream_.num_blocks());
    for (int64_t layer = 0; layer < stream_.num_blocks(); ++layer) {
      if (layer == stream_.model().num_hidden_layers) stream_.finish_trunk();
      layer_ = layer;
      Block block = stream_.load(layer);
      if (store_.has(layer)) {
        repeat(block);
      } else {
        search(block);
      }
    }
    progress_.finish();
  }

 private:
  std::optional<Grid> grid_of(const Piece& piece) const { return options_.grid_of(*piece.spec); }

  uint64_t total_parameters() const {
    uint64_t total = 0;
    for (const config::TensorSpec& spec : table_.tensors())
      if (spec.layer >= 0 && options_.grid_of(spec)) total += static_cast<uint64_t>(spec.numel());
    return total;
  }

  void check_stop() const {
    if (options_.is_stopped())
      throw Error("stopped by a signal in layer {}; the same command goes on with that layer", layer_);
  }

  at::Tensor forward(Block& block, int64_t sample) const {
    check_stop();
    const at::Tensor y = stream_.forward(block, sample);
    if (!std::isfinite(y.sum(at::kDouble).item<double>()))
      throw NumericError("layer {} makes NaN or infinity of calibration sample {}", layer_, sample);
    return y;
  }

  // --- a layer that an earlier run has finished

  void repeat(Block& block) {
    for (const SmoothingGroup& group : smoothing_groups(table_, layer_))
      if (const std::vector<float> scales = store_.smoothing(layer_, group.norm); !scales.empty())
        fold(*block.registry, group, to_tensor(scales));
    for (Parameter& parameter : block.registry->parameters()) {
      for (const Piece& piece : parameter.pieces) {
        const std::optional<Grid> grid = grid_of(piece);
        if (!grid) continue;
        progress_.advance(static_cast<uint64_t>(piece.numel()));
        if (options_.method != Method::gptq) continue;  // the next layer sees the source's outputs
        const std::optional<CodedMatrix> found = store_.matrix(layer_, piece.spec->name);
        const checkpoint::IntCodes codes =
            found ? found->codes
                  : round_to_nearest(parameter.piece_of(parameter.value, piece).to(at::kFloat), *grid);
        set(parameter, piece, decode(codes, piece.shape[1], *grid));
      }
    }
    for (int64_t s = 0; s < stream_.num_samples(); ++s) stream_.state(s) = forward(block, s);
  }

  // --- a layer without results

  void search(Block& block) {
    InputStatistics statistics(options_.method == Method::gptq);
    for (Parameter& parameter : block.registry->parameters())
      if (is_watched(parameter)) parameter.observer = &statistics;
    std::vector<at::Tensor> outputs;
    for (int64_t s = 0; s < stream_.num_samples(); ++s) outputs.push_back(forward(block, s));
    for (Parameter& parameter : block.registry->parameters()) parameter.observer = nullptr;

    LayerResult result;
    result.report.layer = layer_;
    result.report.expert_tokens = statistics.expert_rows();
    if (options_.smoothing || options_.suppresses_outliers) smooth(block, statistics, result);
    quantise(block, statistics, result);

    double lost = 0, size = 0;
    for (int64_t s = 0; s < stream_.num_samples(); ++s) {
      const at::Tensor& y = outputs[static_cast<size_t>(s)];
      const at::Tensor found = forward(block, s);
      const at::Tensor exact = y.to(at::kDouble);
      lost += (found.to(at::kDouble) - exact).square().sum().item<double>();
      size += exact.square().sum().item<double>();
      stream_.state(s) = options_.method == Method::gptq ? found : y;
    }
    result.report.output_error = size > 0 ? std::sqrt(lost / size) : 0;
    store_.write(result);
  }

  bool is_watched(const Parameter& parameter) const {
    return std::any_of(parameter.pieces.begin(), parameter.pieces.end(), [&](const Piece& piece) {
      return piece.spec->role == config::TensorRole::routed_expert || grid_of(piece).has_value();
    });
  }

  // Of all matrices together, float [in].
  static at::Tensor column_largest(const std::vector<at::Tensor>& matrices) {
    at::Tensor result;
    for (const at::Tensor& matrix : matrices) {
      const at::Tensor largest = at::amax(matrix.abs(), {0}).to(at::kFloat);
      result = result.defined() ? at::maximum(result, largest) : largest;
    }
    return result;
  }

  void smooth(Block& block, InputStatistics& statistics, LayerResult& result) const {
    for (const SmoothingGroup& group : smoothing_groups(table_, layer_)) {
      std::vector<at::Tensor> quantised;
      std::set<const Parameter*> readers;
      bool is_attention = false;
      for (const std::string& name : group.readers) {
        const auto [parameter, piece] = block.registry->find(name);
        readers.insert(parameter);
        if (!grid_of(*piece)) continue;
        quantised.push_back(parameter->piece_of(parameter->value, *piece));
        is_attention = piece->spec->role == config::TensorRole::attention;
      }
      const InputStatistics::Inputs* inputs = nullptr;
      for (const Parameter* reader : readers)
        if (!inputs) inputs = statistics.find(*reader);
      if (quantised.empty() || !inputs || (options_.suppresses_outliers && !is_attention)) continue;
      const at::Tensor scales =
          options_.suppresses_outliers
              ? outlier_suppression_scales(inputs->ranges, quantised)
              : smoothing_scales(inputs->ranges.largest(), column_largest(quantised), *options_.smoothing);
      fold(*block.registry, group, scales);
      for (const Parameter* reader : readers) statistics.divide(*reader, scales);
      result.smoothing[group.norm] = to_vector(scales);
    }
  }

  void quantise(Block& block, const InputStatistics& statistics, LayerResult& result) {
    Parameter* first = nullptr;  // of routed experts: gate and up
    Parameter* second = nullptr;
    for (Parameter& parameter : block.registry->parameters()) {
      if (is_experts(parameter)) {
        (first ? second : first) = &parameter;
        continue;
      }
      const InputStatistics::Inputs* inputs = statistics.find(parameter);
      std::optional<GptqFactor> factor;
      for (const Piece& piece : parameter.pieces) {
        if (!grid_of(piece)) continue;
        if (inputs)
          result.input_ranges[piece.spec->name] = {to_vector(inputs->ranges.minimum),
                                                   to_vector(inputs->ranges.maximum)};
        if (!factor && inputs && inputs->hessian.defined()) factor = factor_of(piece, inputs->hessian);
        encode(parameter, piece, factor, result);
      }
    }
    if (first && second) quantise_experts(*first, *second, statistics, result);
  }

  void quantise_experts(Parameter& gate_up, Parameter& down, const InputStatistics& statistics,
                        LayerResult& result) {
    const auto experts = static_cast<int64_t>(down.pieces.size());
    for (int64_t e = 0; e < experts; ++e) {
      const Piece& gate = gate_up.pieces[static_cast<size_t>(2 * e)];
      const Piece& up = gate_up.pieces[static_cast<size_t>(2 * e + 1)];
      const Piece& last = down.pieces[static_cast<size_t>(e)];
      const auto& tokens = result.report.expert_tokens;
      const bool is_starved = tokens.empty() || tokens[static_cast<size_t>(e)] < options_.min_expert_tokens;
      if (is_starved && options_.method == Method::gptq) result.report.starved_experts.push_back(e);
      std::optional<GptqFactor> factor;
      at::Tensor rows;
      if (options_.method == Method::gptq && !is_starved) {
        rows = statistics.rows_of_expert(e);
        factor = factor_of(gate, hessian_of(rows));
      }
      encode(gate_up, gate, factor, result);
      encode(gate_up, up, factor, result);
      if (factor) {
        // The down-projection's inputs as the quantised first half makes them.
        const at::Tensor both = gate_up.value.select(0, e).to(at::kFloat);
        factor = factor_of(last, hessian_of(ops::swiglu(at::mm(rows, both.t()))));
      }
      encode(down, last, factor, result);
    }
  }

  GptqFactor factor_of(const Piece& piece, const at::Tensor& hessian) const {
    try {
      return gptq_factor(hessian, options_.gptq);
    } catch (const NumericError& error) {
      throw NumericError("{}: {}", piece.spec->name, error.what());
    }
  }

  static at::Tensor hessian_of(const at::Tensor& rows) {
    at::Tensor hessian;
    add_to_hessian(hessian, rows);
    return hessian;
  }

  void encode(Parameter& parameter, const Piece& piece, const std::optional<GptqFactor>& factor,
              LayerResult& result) {
    const std::optional<Grid> grid = grid_of(piece);
    if (!grid) return;
    check_stop();
    const at::Tensor weight = parameter.piece_of(parameter.value, piece).to(at::kFloat);
    CodedMatrix coded{piece.shape,
                      factor ? gptq(weight, *factor, options_.gptq, *grid) : round_to_nearest(weight, *grid)};
    const at::Tensor values = decode(coded.codes, piece.shape[1], *grid);
    if (!std::isfinite(values.sum(at::kDouble).item<double>()))
      throw NumericError("{}: quantised values hold NaN or infinity", piece.spec->name);
    set(parameter, piece, values);
    // What is rounded to nearest as it stands, the writer rounds by itself.
    if (factor) result.matrices[piece.spec->name] = std::move(coded);
    progress_.advance(static_cast<uint64_t>(piece.numel()), fmt::format("layer {}", layer_));
  }

  static void set(Parameter& parameter, const Piece& piece, const at::Tensor& values) {
    parameter.piece_of(parameter.value, piece).copy_(values);
  }

  LayerStream& stream_;
  CalibrationStore& store_;
  const CalibrationOptions& options_;
  config::TensorTable table_;
  Progress progress_;
  int64_t layer_ = 0;
};

}  // namespace

void calibrate(LayerStream& stream, CalibrationStore& store, const CalibrationOptions& options) {
  const at::NoGradGuard no_grad;
  Pass(stream, store, options).run();
}

std::string spread(std::vector<int64_t> values) {
  if (values.empty()) return "none";
  std::sort(values.begin(), values.end());
  return fmt::format("min {}, median {}, max {}", format_integer(values.front()),
                     format_integer(values[values.size() / 2]), format_integer(values.back()));
}

void log_report(const CalibrationStore& store, const LayerStream& stream, const CalibrationOptions& options) {
  for (int64_t layer = 0; layer < stream.num_blocks(); ++layer) {
    const LayerReport report = store.report(layer);
    log::info("layer {}: output error {:.3e}{}", layer, report.output_error,
              report.expert_tokens.empty() ? "" : "; tokens per expert: " + spread(report.expert_tokens));
    if (report.starved_experts.empty()) continue;
    std::vector<std::string> names;
    for (const int64_t e : report.starved_experts)
      names.push_back(fmt::format(
          "{} ({})", e, report.expert_tokens.empty() ? 0 : report.expert_tokens[static_cast<size_t>(e)]));
    log::warning(
        "{}mlp.experts: fewer than {} tokens reached expert {}: rounded to nearest (a longer or more varied "
        "calibration text reaches them)",
        config::layer_prefix(layer), options.min_expert_tokens, fmt::join(names, ", "));
  }
}

}  // namespace fathom::quantize

#include "checkpoint/model_cut.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <numeric>
#include <string_view>

#include "base/error.h"

namespace fathom::checkpoint {
namespace {

std::vector<int64_t> all_of(int64_t count) {
  std::vector<int64_t> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), int64_t{0});
  return numbers;
}

// "0-2,60" -> 0 1 2 60, below `limit`.
std::vector<int64_t> parse_numbers(const std::string& text, int64_t limit, const char* flag,
                                   const char* what) {
  std::vector<int64_t> numbers;
  const auto number = [&](std::string_view part) {
    int64_t value = -1;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size() || value < 0)
      throw UsageError("{} {}: \"{}\" is no number; write for example 0-2,60", flag, text, part);
    if (value >= limit)
      throw UsageError("{} {}: there is no {} {}; the last one is {}", flag, text, what, value, limit - 1);
    return value;
  };
  for (std::string_view rest = text;;) {
    const size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    const size_t dash = part.find('-');
    const int64_t first = number(part.substr(0, dash));
    const int64_t last = dash == std::string_view::npos ? first : number(part.substr(dash + 1));
    if (last < first || (!numbers.empty() && first <= numbers.back()))
      throw UsageError("{} {}: \"{}\" does not ascend; each {} may be named once, in its old order", flag,
                       text, part, what);
    for (int64_t i = first; i <= last; ++i) numbers.push_back(i);
    if (comma == std::string_view::npos) return numbers;
    rest.remove_prefix(comma + 1);
  }
}

void cut_layers(const config::ModelConfig& model, const CutOptions& options, ModelCut& cut) {
  const int64_t mtp = model.num_nextn_predict_layers;
  cut.layers = all_of(model.num_hidden_layers);
  if (!options.layers.empty()) {
    cut.layers = parse_numbers(options.layers, model.num_layers_with_mtp(), "--layers", "layer");
    if (cut.layers.back() >= model.num_hidden_layers)
      throw UsageError(
          "--layers {}: layer {} is an MTP layer; those are kept without being named, or left out by "
          "--drop-mtp",
          options.layers, cut.layers.back());
  }
  cut.model.num_hidden_layers = static_cast<int64_t>(cut.layers.size());
  cut.model.num_nextn_predict_layers = options.drop_mtp ? 0 : mtp;
  if (!options.drop_mtp)
    for (int64_t i = 0; i < mtp; ++i) cut.layers.push_back(model.num_hidden_layers + i);
  // The MTP layers too: they are dense where first_k_dense_replace reaches beyond the trunk.
  if (model.n_routed_experts > 0)
    cut.model.first_k_dense_replace = std::count_if(
        cut.layers.begin(), cut.layers.end(), [&](int64_t old) { return old < model.first_k_dense_replace; });
  for (size_t i = 0; i < cut.layers.size(); ++i) {
    const int64_t old = cut.layers[i];
    if (cut.model.is_moe_layer(static_cast<int64_t>(i)) != model.is_moe_layer(old))
      throw UsageError(
          "--layers {}: layer {} {} experts, but would come to place {}, where moe_layer_freq {} puts a "
          "layer {} them",
          options.layers, old, model.is_moe_layer(old) ? "has" : "has no", i, model.moe_layer_freq,
          model.is_moe_layer(old) ? "without" : "with");
  }
}

void cut_experts(const config::ModelConfig& model, const CutOptions& options, ModelCut& cut) {
  cut.experts = all_of(model.n_routed_experts);
  if (options.experts.empty()) return;
  if (model.n_routed_experts == 0)
    throw UsageError("--experts {}: this model has no experts", options.experts);
  cut.experts = parse_numbers(options.experts, model.n_routed_experts, "--experts", "expert");
  cut.has_fewer_experts = cut.experts.size() < static_cast<size_t>(model.n_routed_experts);
  const int64_t group_size = model.n_routed_experts / model.n_group;
  std::map<int64_t, int64_t> kept;  // group -> experts
  for (const int64_t expert : cut.experts) ++kept[expert / group_size];
  for (const auto& [group, count] : kept)
    if (count != kept.begin()->second)
      throw UsageError(
          "--experts {}: {} are of group {} (experts {}-{}) and {} of group {}: take equally many of each "
          "group, or of one group alone, since the router chooses groups of one size",
          options.experts, kept.begin()->second, kept.begin()->first, kept.begin()->first * group_size,
          (kept.begin()->first + 1) * group_size - 1, count, group);
  cut.model.n_routed_experts = static_cast<int64_t>(cut.experts.size());
  cut.model.n_group = static_cast<int64_t>(kept.size());
  cut.model.topk_group = std::min(model.topk_group, cut.model.n_group);
}

}  // namespace

ModelCut cut_model(const config::ModelConfig& model, const CutOptions& options) {
  ModelCut cut;
  cut.model = model;
  cut_layers(model, options, cut);
  cut_experts(model, options, cut);
  try {
    config::parse_model_config(config::to_json(cut.model), "what --layers and --experts keep");
  } catch (const ConfigError& e) {
    throw UsageError("this cut makes no model: {}: keep more", e.what());
  }
  return cut;
}

std::string ModelCut::source_name(const config::TensorSpec& spec) const {
  if (spec.layer < 0) return spec.name;
  std::string rest = spec.name.substr(config::layer_prefix(spec.layer).size());
  if (spec.expert >= 0) {
    const std::string prefix = "mlp.experts.";
    const size_t dot = rest.find('.', prefix.size());
    rest = prefix + std::to_string(experts[static_cast<size_t>(spec.expert)]) + rest.substr(dot);
  }
  return config::layer_prefix(layers[static_cast<size_t>(spec.layer)]) + rest;
}

}  // namespace fathom::checkpoint

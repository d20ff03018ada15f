#include "checkpoint/inspect_layers.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string_view>
#include <utility>

#include "checkpoint/known_tensors.h"

namespace fathom::checkpoint {
namespace {

// Rows stand in the order of the model: embedding, trunk, norm and head, MTP layers.
using Place = std::pair<int, int64_t>;
enum : int { kEmbedding, kTrunk, kNorm, kHead, kMtp, kOther };

std::optional<int64_t> layer_of(std::string_view name) {
  constexpr std::string_view kPrefix = "model.layers.";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  const size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
  if (digits == 0 || digits > 9 || digits == name.size()) return std::nullopt;
  return std::strtoll(name.data(), nullptr, 10);
}

Place outside_of_layers(std::string_view name) {
  if (name.starts_with("model.embed_tokens.")) return {kEmbedding, -1};
  if (name.starts_with("model.norm.")) return {kNorm, -1};
  return {name.starts_with("lm_head.") ? kHead : kOther, -1};
}

class Rows {
 public:
  LayerRow& at(const Place& place) {
    LayerRow& row = rows_[place];
    row.first = row.last = place.second;
    if (row.kind.empty()) {
      constexpr const char* kKinds[] = {"embedding", "dense", "norm", "head", "MTP", "other"};
      row.kind = kKinds[place.first];
    }
    return row;
  }

  std::vector<LayerRow> fold() const {
    std::vector<LayerRow> result;
    for (const auto& [place, row] : rows_) {
      const bool continues = !result.empty() && place.second >= 0 && result.back().last + 1 == place.second &&
                             is_like(result.back(), row);
      if (continues)
        result.back().last = row.last;
      else
        result.push_back(row);
    }
    return result;
  }

 private:
  static bool is_like(const LayerRow& a, const LayerRow& b) {
    return a.kind == b.kind && a.parameters == b.parameters && a.active == b.active && a.copies == b.copies &&
           a.scales == b.scales && a.bytes_by_dtype == b.bytes_by_dtype;
  }
  std::map<Place, LayerRow> rows_;
};

void add_stored(LayerRow& row, const InspectedTensor& tensor) {
  row.bytes_by_dtype[tensor.dtype] += tensor.bytes;
  if (tensor.is_scale()) row.scales += tensor.numel();
}

}  // namespace

uint64_t LayerRow::bytes() const {
  uint64_t sum = 0;
  for (const auto& [dtype, bytes] : bytes_by_dtype) sum += bytes;
  return sum;
}

std::vector<LayerRow> layers_of_config(const config::ModelConfig& model, const config::TensorTable& table,
                                       const std::vector<InspectedTensor>& tensors) {
  Rows rows;
  const auto row_of = [&](const std::string& name) -> LayerRow& {
    const auto layer = layer_of(name);
    if (!layer) return rows.at(outside_of_layers(name));
    return rows.at({*layer < model.num_hidden_layers ? kTrunk : kMtp, *layer});
  };
  for (const config::TensorSpec& spec : table.tensors()) {
    LayerRow& row = row_of(spec.name);
    if (copied_from(spec)) {
      row.copies += spec.numel();
      continue;
    }
    const bool is_idle =
        spec.role == config::TensorRole::routed_expert && spec.expert >= model.num_experts_per_tok;
    row.parameters += spec.numel();
    row.active = row.active.value_or(0) + (is_idle ? 0 : spec.numel());
    if (spec.role == config::TensorRole::router && row.kind == "dense") row.kind = "MoE";
  }
  for (const InspectedTensor& tensor : tensors) add_stored(row_of(tensor.name), tensor);
  return rows.fold();
}

std::vector<LayerRow> layers_of_names(const std::vector<InspectedTensor>& tensors) {
  std::map<int64_t, int> kinds;  // of layers: kMtp where anything says so
  const auto has = [](const InspectedTensor& tensor, const char* part) {
    return tensor.name.find(part) != std::string::npos;
  };
  for (const InspectedTensor& tensor : tensors)
    if (const auto layer = layer_of(tensor.name))
      kinds[*layer] = has(tensor, ".eh_proj.") ? kMtp : std::max(kinds[*layer], int{kTrunk});
  Rows rows;
  for (const InspectedTensor& tensor : tensors) {
    const auto layer = layer_of(tensor.name);
    LayerRow& row = rows.at(layer ? Place{kinds[*layer], *layer} : outside_of_layers(tensor.name));
    if (row.kind == "dense" && has(tensor, ".mlp.experts.")) row.kind = "MoE";
    const bool is_copy = layer && (has(tensor, ".embed_tokens.") || has(tensor, ".shared_head.head."));
    (is_copy ? row.copies : row.parameters) += tensor.parameters;
    add_stored(row, tensor);
  }
  return rows.fold();
}

}  // namespace fathom::checkpoint

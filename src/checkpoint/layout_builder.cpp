#include "checkpoint/layout_builder.h"

#include <fmt/format.h>

#include <numeric>

#include "base/error.h"

namespace fathom::checkpoint {

using config::layer_prefix;
using config::TensorSpec;

LayoutBuilder::LayoutBuilder(const config::ModelConfig& of, const LayoutOptions& with)
    : model(of), options(with), table(of) {}

std::string LayoutBuilder::numbered_file(int64_t layer) const {
  return fmt::format("ms-model-{:05}-of-{:05}.safetensors", layer + 1, model.num_layers_with_mtp());
}

LayoutRule& LayoutBuilder::add(const std::vector<std::string>& hf, const std::vector<std::string>& names,
                               const std::vector<int64_t>& rows) {
  LayoutRule rule;
  rule.file = file_;
  for (const std::string& name : hf) {
    const TensorSpec& spec = table.at(name);
    rule.role = spec.role;
    rule.width = spec.shape.back();
    rule.hf.push_back({name, spec.shape});
  }
  if (rows.empty()) {
    const bool is_renamed = hf.size() == 1;
    rule.there.push_back({names.front(), is_renamed ? rule.hf.front().shape
                                                    : std::vector<int64_t>{rule.group_rows(), rule.width}});
  }
  for (size_t i = 0; i < rows.size(); ++i) rule.there.push_back({names[i], {rows[i], rule.width}});
  rules.push_back(std::move(rule));
  return rules.back();
}

LayoutRule& LayoutBuilder::add_experts(int64_t layer, const std::vector<std::string>& projections,
                                       LayoutTensor there, bool is_transposed) {
  LayoutRule rule;
  rule.file = file_;
  rule.role = config::TensorRole::routed_expert;
  rule.groups = model.n_routed_experts;
  rule.is_transposed = is_transposed;
  for (int64_t expert = 0; expert < model.n_routed_experts; ++expert)
    for (const std::string& projection : projections) {
      std::string name = fmt::format("{}mlp.experts.{}.{}.weight", layer_prefix(layer), expert, projection);
      const std::vector<int64_t>& shape = table.at(name).shape;
      rule.width = shape.back();
      rule.hf.push_back({std::move(name), shape});
    }
  rule.there.push_back(std::move(there));
  rules.push_back(std::move(rule));
  return rules.back();
}

std::vector<int64_t> counting(int64_t count) {
  std::vector<int64_t> result(static_cast<size_t>(count));
  std::iota(result.begin(), result.end(), int64_t{0});
  return result;
}

std::vector<int64_t> evens_then_odds(int64_t count) {
  std::vector<int64_t> result;
  for (int64_t odd = 0; odd < 2; ++odd)
    for (int64_t i = odd; i < count; i += 2) result.push_back(i);
  return result;
}

RowOrder split_heads(int64_t heads, const std::vector<int64_t>& first, const std::vector<int64_t>& second) {
  const auto result = std::make_shared<std::vector<int64_t>>();
  const auto size = static_cast<int64_t>(first.size() + second.size());
  for (int64_t head = 0; head < heads; ++head)
    for (const int64_t i : first) result->push_back(head * size + i);
  for (int64_t head = 0; head < heads; ++head)
    for (const int64_t i : second) result->push_back(head * size + static_cast<int64_t>(first.size()) + i);
  return result;
}

RowOrder reordered_tails(int64_t before, int64_t heads, int64_t size, const std::vector<int64_t>& moved) {
  const auto result = std::make_shared<std::vector<int64_t>>(counting(before));
  const int64_t kept = size - static_cast<int64_t>(moved.size());
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t i = 0; i < kept; ++i) result->push_back(before + head * size + i);
    for (const int64_t i : moved) result->push_back(before + head * size + kept + i);
  }
  return result;
}

RowOrder interleaved_halves(int64_t count) {
  const auto result = std::make_shared<std::vector<int64_t>>();
  for (int64_t i = 0; i < count / 2; ++i) {
    result->push_back(i);
    result->push_back(count / 2 + i);
  }
  return result;
}

RowOrder swapped_pairs(int64_t count) {
  const auto result = std::make_shared<std::vector<int64_t>>();
  for (int64_t i = 0; i < count; ++i) result->push_back(i ^ 1);
  return result;
}

}  // namespace fathom::checkpoint

#include "checkpoint/layout_rules.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "checkpoint/layout_builder.h"

namespace fathom::checkpoint {
namespace {

int64_t numel(const LayoutTensor& tensor) {
  return std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<>());
}

RowOrder inverse(const RowOrder& order) {
  const auto result = std::make_shared<std::vector<int64_t>>(order->size());
  for (size_t i = 0; i < order->size(); ++i)
    (*result)[static_cast<size_t>((*order)[i])] = static_cast<int64_t>(i);
  return result;
}

}  // namespace

int64_t LayoutRule::group_rows() const {
  int64_t elements = 0;
  for (size_t i = 0; i < hf.size() / static_cast<size_t>(groups); ++i) elements += numel(hf[i]);
  return elements / width;
}

std::vector<TensorView> to_layout(const LayoutRule& rule, std::vector<TensorView> hf) {
  FATHOM_ASSERT(hf.size() == rule.hf.size());
  const int64_t rows = rule.group_rows();
  const size_t group_size = hf.size() / static_cast<size_t>(rule.groups);
  std::vector<TensorView> groups;
  for (auto first = hf.begin(); first != hf.end(); first += static_cast<std::ptrdiff_t>(group_size)) {
    std::vector<TensorView> parts;
    for (auto view = first; view != first + static_cast<std::ptrdiff_t>(group_size); ++view)
      parts.push_back(reshaped(std::move(*view), {view->numel() / rule.width, rule.width}));
    TensorView group = concatenated(std::move(parts), {rows, rule.width});
    if (rule.rows) group = select_rows(std::move(group), rule.rows);
    groups.push_back(rule.is_transposed ? transposed(std::move(group)) : std::move(group));
  }
  const TensorView all = concatenated(std::move(groups), {rule.groups * rows * rule.width});
  std::vector<TensorView> result;
  int64_t begin = 0;
  for (const LayoutTensor& tensor : rule.there) {
    result.push_back(slice(all, begin, tensor.shape));
    result.back().name = tensor.name;
    begin += numel(tensor);
  }
  return result;
}

TensorView from_layout(const LayoutRule& rule, size_t i, const std::vector<TensorView>& there) {
  const int64_t rows = rule.group_rows(), elements = rows * rule.width;
  const size_t group_size = rule.hf.size() / static_cast<size_t>(rule.groups);
  const TensorView all = concatenated(there, {rule.groups * elements});
  const std::vector<int64_t> shape =
      rule.is_transposed ? std::vector{rule.width, rows} : std::vector{rows, rule.width};
  TensorView group = slice(all, static_cast<int64_t>(i / group_size) * elements, shape);
  if (rule.is_transposed) group = transposed(std::move(group));
  if (rule.rows) group = select_rows(std::move(group), inverse(rule.rows));
  int64_t row = 0;
  for (size_t before = i - i % group_size; before < i; ++before) row += numel(rule.hf[before]) / rule.width;
  TensorView result = slice(group, row * rule.width, {numel(rule.hf[i]) / rule.width, rule.width});
  result = reshaped(std::move(result), rule.hf[i].shape);
  result.name = rule.hf[i].name;
  return result;
}

const char* layout_name(Layout layout) {
  switch (layout) {
    case Layout::mindformers_train:
      return "mindformers-train";
    case Layout::mindformers_train_gmm:
      return "mindformers-train-gmm";
    case Layout::mindformers_infer:
      return "mindformers-infer";
    case Layout::mcore:
      return "mcore";
    case Layout::hf:
      break;
  }
  return "hf";
}

std::vector<LayoutRule> layout_rules(const config::ModelConfig& model, const LayoutOptions& options) {
  FATHOM_ASSERT(options.layout != Layout::hf);
  return options.layout == Layout::mcore ? mcore_rules(model, options) : mindformers_rules(model, options);
}

}  // namespace fathom::checkpoint

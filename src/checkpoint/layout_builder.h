// What the tables of the layouts are written with.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "checkpoint/layout_rules.h"

namespace fathom::checkpoint {

std::vector<LayoutRule> mindformers_rules(const config::ModelConfig& model, const LayoutOptions& options);
std::vector<LayoutRule> mcore_rules(const config::ModelConfig& model, const LayoutOptions& options);

class LayoutBuilder {
 public:
  LayoutBuilder(const config::ModelConfig& model, const LayoutOptions& options);

  // The files of the rules added from here on.
  void set_file(std::string name) { file_ = std::move(name); }
  // "ms-model-00001-of-00062.safetensors" of a layer: one for each.
  std::string numbered_file(int64_t layer) const;

  // The layout's tensors `names` have as many rows as `rows` says (empty: one tensor with all of them, of the HF shape where
  // there is one of it).
  LayoutRule& add(const std::vector<std::string>& hf, const std::vector<std::string>& names,
                  const std::vector<int64_t>& rows = {});
  // Of all experts of a layer; `projections` such as "gate_proj", of each expert after one another.
  LayoutRule& add_experts(int64_t layer, const std::vector<std::string>& projections, LayoutTensor there,
                          bool is_transposed);

  const config::ModelConfig& model;
  const LayoutOptions& options;
  const config::TensorTable table;
  std::vector<LayoutRule> rules;

 private:
  std::string file_;
};

// Orders of rows, [there] = HF. HF has for each head `first` rows and then `second`.
// All heads' first rows, then all heads' second ones.
RowOrder split_heads(int64_t heads, const std::vector<int64_t>& first, const std::vector<int64_t>& second);
// As they are, but for the `moved` rows at the end of each of `heads` equal parts of `size` rows.
RowOrder reordered_tails(int64_t before, int64_t heads, int64_t size, const std::vector<int64_t>& moved);
std::vector<int64_t> counting(int64_t count);         // 0 1 2 ...
std::vector<int64_t> evens_then_odds(int64_t count);  // 0 2 4 ... 1 3 5 ...
RowOrder interleaved_halves(int64_t count);           // 0 n/2 1 n/2+1 ...
RowOrder swapped_pairs(int64_t count);                // 1 0 3 2 ...

}  // namespace fathom::checkpoint

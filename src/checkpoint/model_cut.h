// A smaller model out of a larger one: some of its layers and experts, under new numbers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "config/tensor_table.h"

namespace fathom::checkpoint {

struct CutOptions {
  std::string layers;   // "0-2,60": of the trunk, in ascending order; empty: all
  std::string experts;  // "0-15": of every expert layer; empty: all
  bool drop_mtp = false;
};

struct ModelCut {
  config::ModelConfig model;     // of what is kept; parses as a config.json
  std::vector<int64_t> layers;   // old number of each new layer, the MTP layers behind the trunk
  std::vector<int64_t> experts;  // old number of each new expert
  bool has_fewer_experts = false;
  // The name in the old model of a tensor of the new one.
  std::string source_name(const config::TensorSpec& spec) const;
};

// Layers: num_hidden_layers, first_k_dense_replace and num_nextn_predict_layers follow. Experts: a cut takes equally
// many of every group it touches; n_group becomes the number of these groups, topk_group at most that. Throws
// UsageError naming the flag: no such layer or expert, not ascending, or what is kept makes no model of the family.
ModelCut cut_model(const config::ModelConfig& model, const CutOptions& options);

}  // namespace fathom::checkpoint

// Every tensor that a config implies, under its Hugging Face name: the one name map of the project. Modules register
// their parameters by looking names up here; counts, checkpoints, conversion and loading are functions over it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "config/model_config.h"

namespace fathom::config {

enum class TensorRole {
  embedding,        // model.embed_tokens.weight
  head,             // lm_head.weight
  norm,             // every RMSNorm weight
  attention,        // MLA projections
  dense_mlp,
  routed_expert,
  shared_expert,
  router,           // mlp.gate.weight
  router_bias,      // mlp.gate.e_score_correction_bias, float32 always, not trained by gradient
  mtp_projection,   // eh_proj
  mtp_embedding,    // copy of the trunk's embedding that DeepSeek ships under the MTP layer
  mtp_head,         // copy of lm_head: model.layers.N.shared_head.head.weight
};

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;   // [out, in] for projections, as nn.Linear
  TensorRole role;
  int64_t layer = -1;           // HF layer index; -1: outside the layers
  int64_t expert = -1;
  int64_t numel() const;
  bool is_decayed() const;      // weight decay: matrices only, no norm, no bias
  bool is_initialized_normal() const;  // initializer_range; else ones (norms) or zeros (bias)
};

class TensorTable {
 public:
  explicit TensorTable(const ModelConfig& config);
  const std::vector<TensorSpec>& tensors() const { return tensors_; }   // in file order: embedding, layers, norm, head
  const TensorSpec* find(const std::string& name) const;                // nullptr: the config implies no such tensor
  const TensorSpec& at(const std::string& name) const;                  // throws std::logic_error (our bug)

 private:
  void add(std::string name, std::vector<int64_t> shape, TensorRole role, int64_t layer = -1, int64_t expert = -1);
  std::vector<TensorSpec> tensors_;
  std::map<std::string, size_t> index_;
};

std::string layer_prefix(int64_t layer);   // "model.layers.3."

struct ParameterCounts {
  int64_t trunk = 0;        // without MTP; 671,026,419,200 for V3 (norms and correction bias included)
  int64_t mtp = 0;          // MTP layers without the shared embedding and head copies
  int64_t activated = 0;    // trunk parameters that one token uses, embedding table and head included
};
ParameterCounts count_parameters(const ModelConfig& config);

}  // namespace fathom::config

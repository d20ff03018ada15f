// Every tensor that a config implies, under its Hugging Face name: the one name map of the project. Modules
// register their parameters by looking names up here; counts, checkpoints, conversion and loading are
// functions over it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "config/model_config.h"

namespace fathom::config {

enum class TensorRole {
  embedding,  // model.embed_tokens.weight
  head,       // lm_head.weight
  norm,       // every RMSNorm weight
  attention,  // MLA projections
  dense_mlp,
  routed_expert,
  shared_expert,
  router,          // mlp.gate.weight
  router_bias,     // mlp.gate.e_score_correction_bias, float32 always, not trained by gradient
  mtp_projection,  // eh_proj
  mtp_embedding,   // copy of the trunk's embedding that DeepSeek ships under the MTP layer
  mtp_head,        // copy of lm_head: model.layers.N.shared_head.head.weight
};

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;  // [out, in] for projections, as nn.Linear
  TensorRole role;
  int64_t layer = -1;  // HF layer index; -1: outside the layers
  int64_t expert = -1;
  int64_t numel() const;
  bool is_decayed() const;             // weight decay: matrices only, no norm, no bias
  bool is_initialized_normal() const;  // initializer_range; else ones (norms) or zeros (bias)
};

class TensorTable {
 public:
  explicit TensorTable(const ModelConfig& config);  // throws ConfigError: more than 20 million tensors
  const std::vector<TensorSpec>& tensors() const {
    return tensors_;
  }                                                       // embedding, trunk layers, norm, head, MTP layers
  const TensorSpec* find(const std::string& name) const;  // nullptr: the config implies no such tensor
  const TensorSpec& at(const std::string& name) const;    // throws std::logic_error (our bug)

 private:
  void add(std::string name, std::vector<int64_t> shape, TensorRole role, int64_t layer = -1,
           int64_t expert = -1);
  std::vector<TensorSpec> tensors_;
  std::map<std::string, size_t> index_;
};

// The dtype of `spec` in a checkpoint of this config, as safetensors in PyTorch's words: "float8_e4m3fn" for
// the matrices that an fp8 quantization_config covers, "float32" for the correction bias, else config.dtype.
std::string stored_dtype(const TensorSpec& spec, const ModelConfig& config);
// Shape of `<name>_scale_inv` (float32, one scale a block, partial blocks included); nullopt: `spec` is not
// fp8.
std::optional<std::vector<int64_t>> scale_shape(const TensorSpec& spec, const ModelConfig& config);

// How an integer quantization_config has the matrix stored; nullptr: otherwise.
const IntWeights* int_weights(const TensorSpec& spec, const ModelConfig& config);

// What a checkpoint of this config holds of `spec`: one tensor, or the parts of a quantised matrix.
struct StoredPart {
  std::string name;
  std::string dtype;  // in PyTorch's words
  std::vector<int64_t> shape;
};
std::vector<StoredPart> stored_parts(const TensorSpec& spec, const ModelConfig& config);

std::string layer_prefix(int64_t layer);  // "model.layers.3."

struct ParameterCounts {
  int64_t trunk = 0;  // without MTP; 671,026,419,200 for V3 (norms and correction bias included)
  int64_t mtp = 0;    // MTP layers without the shared embedding and head copies
  // Trunk parameters that one token uses: the trunk less its idle experts, so the head and the whole
  // embedding table count; 37.55e9 for V3.
  int64_t activated = 0;
  // All tensors of a checkpoint, the MTP layers' embedding and head copies included (fp8 scales are no
  // parameters).
  int64_t stored = 0;
};
ParameterCounts count_parameters(const ModelConfig& config);

}  // namespace fathom::config

// One decoder layer over weights that stay in the mapped checkpoint (stored_linear.h): what a layer of a 671B model needs in
// memory is its activations, however large the weights. Without gradients; the arithmetic is that of model/decoder_layer.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "infer/stored_linear.h"
#include "ops/attention.h"
#include "ops/weight.h"

namespace fathom::infer {

// silu(x gate^T) * (x up^T) down^T; dense layers and shared experts.
class StoredMlp {
 public:
  StoredMlp(const StoredWeights& weights, const std::string& prefix);  // "model.layers.0.mlp."
  at::Tensor forward(const at::Tensor& x) const;                       // [T, D] -> [T, D]

 private:
  StoredLinear gate_, up_, down_;
};

// Router, routed experts and shared experts. An expert without tokens is not read.
class StoredMoe {
 public:
  StoredMoe(const StoredWeights& weights, int64_t layer);
  at::Tensor forward(const at::Tensor& x) const;  // [T, D] -> [T, D]

 private:
  const config::ModelConfig& model_;
  StoredLinear router_;
  at::Tensor correction_bias_;  // [E] float; undefined in V2
  std::vector<StoredLinear> gate_, up_, down_;
  std::optional<StoredMlp> shared_;
};

class StoredAttention {
 public:
  StoredAttention(const StoredWeights& weights, int64_t layer);
  // The expanded form of MLA over whole sequences: x [T, D] (normed) -> [T, D].
  at::Tensor prefill(const at::Tensor& x, const ops::SequenceLayout& layout);

 private:
  ops::MlaShape shape_;
  int64_t kv_lora_rank_;
  StoredLinear query_;                    // q_a, or q without query compression
  std::optional<StoredLinear> query_up_;  // q_b
  StoredLinear kv_down_, kv_up_, out_;
  ops::Weight query_norm_, kv_norm_;
};

class StoredLayer {
 public:
  // `weights` must outlive this. Throws CheckpointError: a tensor missing or of another shape, named.
  StoredLayer(const StoredWeights& weights, int64_t layer);
  // x [T, D] of the compute dtype: B sequences of S tokens -> [T, D].
  at::Tensor prefill(const at::Tensor& x, const ops::SequenceLayout& layout);

 private:
  double eps_;
  ops::Weight input_norm_, post_attention_norm_;
  StoredAttention attention_;
  std::optional<StoredMlp> mlp_;
  std::optional<StoredMoe> moe_;
};

}  // namespace fathom::infer

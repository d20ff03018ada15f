// The latent cache of one sequence: kv_lora_rank + qk_rope_head_dim values a token a layer (MEM-2): the normed latent,
// then the rotated shared key. The paged cache of the serving engine will stand behind the same view.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace fathom::model {

class LatentCache {
 public:
  LatentCache(int64_t num_layers, int64_t latent_dim, int64_t max_tokens, at::ScalarType dtype);

  int64_t length() const { return length_; }
  int64_t max_tokens() const { return max_tokens_; }
  // Stores the latents [T, latent_dim] of tokens length() .. length()+T-1 of a layer; advance() once all layers have.
  void append(int64_t layer, const at::Tensor& latents);
  void advance(int64_t tokens) { length_ += tokens; }
  // [count, latent_dim]: the first `count` tokens of a layer.
  at::Tensor view(int64_t layer, int64_t count) const;
  uint64_t bytes() const;

 private:
  std::vector<at::Tensor> layers_;
  int64_t max_tokens_, length_ = 0;
};

}  // namespace fathom::model

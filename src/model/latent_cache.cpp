#include "model/latent_cache.h"

#include <ATen/ops/empty.h>

#include "base/error.h"

namespace fathom::model {

LatentCache::LatentCache(int64_t num_layers, int64_t latent_dim, int64_t max_tokens, at::ScalarType dtype)
    : max_tokens_(max_tokens) {
  for (int64_t layer = 0; layer < num_layers; ++layer)
    layers_.push_back(at::empty({max_tokens, latent_dim}, at::TensorOptions().dtype(dtype)));
}

void LatentCache::append(int64_t layer, const at::Tensor& latents) {
  FATHOM_ASSERT(length_ + latents.size(0) <= max_tokens_);
  layers_[static_cast<size_t>(layer)].narrow(0, length_, latents.size(0)).copy_(latents);
}

at::Tensor LatentCache::view(int64_t layer, int64_t count) const {
  return layers_[static_cast<size_t>(layer)].narrow(0, 0, count);
}

uint64_t LatentCache::bytes() const {
  uint64_t total = 0;
  for (const at::Tensor& layer : layers_) total += layer.nbytes();
  return total;
}

}  // namespace fathom::model

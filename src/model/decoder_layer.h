// One pre-norm residual block: x += MLA(norm(x)); x += FFN(norm(x)).
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "model/mla.h"
#include "model/mlp.h"
#include "model/moe.h"

namespace fathom::model {

class DecoderLayer {
 public:
  DecoderLayer(weights::ParameterRegistry& registry, const ModelRanks& ranks, int64_t layer);

  // x [T, D]: this rank's tokens; so is the output. `recompute`: keep only x and run the layer again in backward.
  Moe::Output forward(const at::Tensor& x, const ForwardContext& context, bool recompute);
  // Over the cache, without gradients: the whole prompt of one sequence, or one token.
  at::Tensor prefill(const at::Tensor& x, const ForwardContext& context, LatentCache& cache,
                     int64_t cache_layer);
  at::Tensor decode(const at::Tensor& x, const ForwardContext& context, LatentCache& cache,
                    int64_t cache_layer);

  int64_t layer() const { return layer_; }
  Moe* moe() { return moe_ ? &*moe_ : nullptr; }

 private:
  Moe::Output feed_forward(const at::Tensor& x, const ForwardContext& context);
  // `normed` is not kept between its uses, of which `after` is the last, and their backward: it costs next to nothing
  // to make again from x, which is kept anyway.
  void release_norm(const at::Tensor& normed, const at::Tensor& x, ops::Weight& weight,
                    const at::Tensor& after) const;

  ModelRanks ranks_;
  int64_t layer_;
  double eps_;
  ops::Weight& input_norm_;
  ops::Weight& post_attention_norm_;
  Mla attention_;
  std::optional<Mlp> mlp_;
  std::optional<Moe> moe_;
};

}  // namespace fathom::model

#include "model/decoder_layer.h"

#include <ATen/TensorOperators.h>

#include "model/sequence_parallel.h"
#include "ops/norm.h"
#include "ops/recompute.h"

namespace fathom::model {

DecoderLayer::DecoderLayer(weights::ParameterRegistry& registry, const ModelRanks& ranks, int64_t layer)
    : ranks_(ranks),
      layer_(layer),
      eps_(registry.model().rms_norm_eps),
      input_norm_(registry.add(config::layer_prefix(layer) + "input_layernorm.weight")),
      post_attention_norm_(registry.add(config::layer_prefix(layer) + "post_attention_layernorm.weight")),
      attention_(registry, ranks, layer) {
  if (registry.model().is_moe_layer(layer)) {
    moe_.emplace(registry, ranks, layer);
  } else {
    mlp_.emplace(registry, ranks, config::layer_prefix(layer) + "mlp.");
  }
}

void DecoderLayer::release_norm(const at::Tensor& normed, const at::Tensor& x, ops::Weight& weight,
                                const at::Tensor& after) const {
  ops::release_until_backward(
      normed, after, [x = x.detach(), &weight, eps = eps_] { return ops::rms_norm(x, weight, eps); });
}

Moe::Output DecoderLayer::feed_forward(const at::Tensor& x, const ForwardContext& context) {
  const at::Tensor normed = ops::rms_norm(x, post_attention_norm_, eps_);
  Moe::Output output;
  if (moe_)
    output = moe_->forward(normed, context);
  else
    output.y = sum_to_own_tokens(mlp_->forward(gather_tokens(normed, context.num_tokens(), ranks_)), ranks_);
  release_norm(normed, x, post_attention_norm_, output.y);
  output.y = x + output.y;
  return output;
}

Moe::Output DecoderLayer::forward(const at::Tensor& x, const ForwardContext& context, bool recompute) {
  if (!recompute) {
    const at::Tensor normed = ops::rms_norm(x, input_norm_, eps_);
    const at::Tensor attended = attention_.forward(normed, context);
    release_norm(normed, x, input_norm_, attended);
    return feed_forward(x + attended, context);
  }
  const ops::TensorList out = ops::recompute(
      [this, context](const ops::TensorList& in) -> ops::TensorList {
        const Moe::Output inner = forward(in[0], context, false);
        if (!inner.balance_loss.defined()) return {inner.y};
        return {inner.y, inner.balance_loss};
      },
      {x});
  return {out[0], out.size() > 1 ? out[1] : at::Tensor()};
}

at::Tensor DecoderLayer::prefill(const at::Tensor& x, const ForwardContext& context, LatentCache& cache,
                                 int64_t cache_layer) {
  const at::Tensor attended =
      attention_.prefill(ops::rms_norm(x, input_norm_, eps_), context, cache, cache_layer);
  return feed_forward(x + attended, context).y;
}

at::Tensor DecoderLayer::decode(const at::Tensor& x, const ForwardContext& context, LatentCache& cache,
                                int64_t cache_layer) {
  const at::Tensor attended =
      attention_.decode(ops::rms_norm(x, input_norm_, eps_), context, cache, cache_layer);
  return feed_forward(x + attended, context).y;
}

}  // namespace fathom::model

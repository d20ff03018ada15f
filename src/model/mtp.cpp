#include "model/mtp.h"

#include <ATen/ops/cat.h>

#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/recompute.h"

namespace fathom::model {

MtpModule::MtpModule(weights::ParameterRegistry& registry, const ModelRanks& ranks, int64_t layer)
    : eps_(registry.model().rms_norm_eps),
      enorm_(registry.add(config::layer_prefix(layer) + "enorm.weight")),
      hnorm_(registry.add(config::layer_prefix(layer) + "hnorm.weight")),
      eh_proj_(registry.add(config::layer_prefix(layer) + "eh_proj.weight")),
      block_(registry, ranks, layer),
      norm_(registry.add(config::layer_prefix(layer) + "shared_head.norm.weight")) {
  registry.add_tied_copy(config::layer_prefix(layer) + "embed_tokens.weight", "model.embed_tokens.weight");
  registry.add_tied_copy(config::layer_prefix(layer) + "shared_head.head.weight", "lm_head.weight");
}

MtpModule::Output MtpModule::forward(const at::Tensor& hidden, const at::Tensor& next_embedding,
                                     const ForwardContext& context, bool recompute) {
  const auto join = [this](const at::Tensor& e, const at::Tensor& h) {
    return at::cat({ops::rms_norm(e, enorm_, eps_), ops::rms_norm(h, hnorm_, eps_)}, 1);
  };
  const at::Tensor joined = join(next_embedding, hidden), x = ops::linear(joined, eh_proj_);
  ops::release_until_backward(
      joined, x, [join, e = next_embedding.detach(), h = hidden.detach()] { return join(e, h); });
  const Moe::Output out = block_.forward(x, context, recompute);
  return {ops::rms_norm(out.y, norm_, eps_), out.balance_loss};
}

}  // namespace fathom::model

#include "ops/router.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/zeros_like.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>

#include <limits>

namespace fathom::ops {
namespace {

// The K best columns, ties to the lower index: a stable sort of the negated values.
at::Tensor best_columns(const at::Tensor& values, int64_t count) {
  return at::argsort(values, /*stable=*/true, -1, /*descending=*/true).narrow(-1, 0, count);
}

at::Tensor choose(const at::Tensor& scores, const at::Tensor& correction_bias, const config::ModelConfig& config) {
  at::Tensor choice = scores;
  if (correction_bias.defined()) choice = choice + correction_bias.to(scores.scalar_type());
  const int64_t T = scores.size(0), groups = config.n_group;
  if (config.topk_method != config::TopkMethod::greedy && groups > 1) {
    const at::Tensor grouped = choice.view({T, groups, -1});
    // noaux_tc judges a group by the sum of its two best, V2's group-limited greedy by its best
    const int64_t judged = config.topk_method == config::TopkMethod::noaux_tc ? 2 : 1;
    const at::Tensor group_scores = std::get<0>(at::topk(grouped, judged, -1)).sum(-1);
    const at::Tensor kept = best_columns(group_scores, config.topk_group);
    const at::Tensor dropped = at::zeros({T, groups}, choice.options().dtype(at::kBool)).fill_(true).scatter(1, kept, false);
    choice = grouped.masked_fill(dropped.unsqueeze(-1), -std::numeric_limits<double>::infinity()).view_as(choice);
  }
  return best_columns(choice, config.num_experts_per_tok);
}

}  // namespace

Routing route(const at::Tensor& logits, const at::Tensor& correction_bias, const config::ModelConfig& config) {
  Routing routing;
  routing.scores =
      config.scoring_func == config::ScoringFunc::sigmoid ? at::sigmoid(logits) : at::softmax(logits, -1);
  {
    at::NoGradGuard no_grad;
    routing.indices = choose(routing.scores.detach(), correction_bias, config);
  }
  at::Tensor weights = routing.scores.gather(1, routing.indices);
  if (config.norm_topk_prob) weights = weights / (weights.sum(-1, true) + 1e-20);
  routing.weights = weights * config.routed_scaling_factor;
  return routing;
}

at::Tensor sequence_balance_loss(const at::Tensor& scores, int64_t num_sequences, int64_t num_experts_per_tok) {
  const int64_t E = scores.size(1), S = scores.size(0) / num_sequences;
  at::Tensor f;
  {
    at::NoGradGuard no_grad;
    const at::Tensor chosen = best_columns(scores.detach(), num_experts_per_tok);
    f = at::zeros_like(scores.detach()).scatter(1, chosen, 1.0).view({num_sequences, S, E}).sum(1);
    f = f * (static_cast<double>(E) / static_cast<double>(num_experts_per_tok * S));
  }
  const at::Tensor P = (scores / (scores.sum(-1, true) + 1e-20)).view({num_sequences, S, E}).mean(1);
  return (f * P).sum();
}

}  // namespace fathom::ops

#include "ops/router.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>

#include "base/parallel.h"
#include "kernels/router.h"
#include "ops/runtime.h"

namespace fathom::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The K best columns, ties to the lower index: a stable sort of the negated values.
at::Tensor best_columns(const at::Tensor& values, int64_t count) {
  return at::argsort(values, /*stable=*/true, -1, /*descending=*/true).narrow(-1, 0, count);
}

at::Tensor choose(const at::Tensor& scores, const at::Tensor& correction_bias,
                  const config::ModelConfig& config) {
  at::Tensor choice = scores;
  if (correction_bias.defined()) choice = choice + correction_bias.to(scores.scalar_type());
  const int64_t T = scores.size(0), groups = config.n_group;
  if (config.topk_method != config::TopkMethod::greedy && groups > 1) {
    const at::Tensor grouped = choice.view({T, groups, choice.size(1) / groups});
    // noaux_tc judges a group by the sum of its two best, V2's group-limited greedy by its best
    const int64_t judged = config.topk_method == config::TopkMethod::noaux_tc ? 2 : 1;
    const at::Tensor group_scores = std::get<0>(at::topk(grouped, judged, -1)).sum(-1);
    const at::Tensor kept = best_columns(group_scores, config.topk_group);
    const at::Tensor dropped =
        at::zeros({T, groups}, choice.options().dtype(at::kBool)).fill_(true).scatter(1, kept, false);
    choice =
        grouped.masked_fill(dropped.unsqueeze(-1), -std::numeric_limits<double>::infinity()).view_as(choice);
  }
  return best_columns(choice, config.num_experts_per_tok);
}

kernels::RouterForwardParams router_params(const at::Tensor& logits, const config::ModelConfig& config) {
  kernels::RouterForwardParams params;
  params.num_tokens = logits.size(0);
  params.num_experts = logits.size(1);
  params.num_choices = config.num_experts_per_tok;
  if (config.topk_method != config::TopkMethod::greedy) {
    params.num_groups = config.n_group;
    params.topk_groups = config.topk_group;
  }
  params.scoring = config.scoring_func == config::ScoringFunc::sigmoid ? kernels::Scoring::sigmoid
                                                                       : kernels::Scoring::softmax;
  params.group_score = config.topk_method == config::TopkMethod::noaux_tc ? kernels::GroupScore::top2_sum
                                                                          : kernels::GroupScore::maximum;
  params.normalise = config.norm_topk_prob;
  params.scale = config.routed_scaling_factor;
  params.logits = logits.const_data_ptr<float>();
  return params;
}

struct RouteByKernel : torch::autograd::Function<RouteByKernel> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& logits,
                               const at::Tensor* correction_bias, const config::ModelConfig* config,
                               at::Tensor* indices) {
    const at::Tensor dense = logits.detach().contiguous();
    kernels::RouterForwardParams params = router_params(dense, *config);
    *indices = at::empty({params.num_tokens, params.num_choices}, dense.options().dtype(at::kInt));
    at::Tensor weights = at::empty(indices->sizes(), dense.options()),
               scores = at::empty(dense.sizes(), dense.options());
    if (correction_bias->defined()) params.bias = correction_bias->const_data_ptr<float>();
    params.indices = indices->mutable_data_ptr<int32_t>();
    params.weights = weights.mutable_data_ptr<float>();
    params.scores = scores.mutable_data_ptr<float>();
    kernels::router_forward(params);
    ctx->save_for_backward({*indices, scores});
    ctx->saved_data["softmax"] = params.scoring == kernels::Scoring::softmax;
    ctx->saved_data["normalise"] = params.normalise;
    ctx->saved_data["scale"] = params.scale;
    return {weights, scores};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& indices = saved[0];
    const at::Tensor scores = saved[1].detach();
    at::Tensor d_logits = at::empty(scores.sizes(), scores.options());
    const at::Tensor d_weights = grads[0].defined() ? grads[0].contiguous() : grads[0];
    const at::Tensor d_scores = grads[1].defined() ? grads[1].contiguous() : grads[1];
    kernels::RouterBackwardParams params;
    params.num_tokens = scores.size(0);
    params.num_experts = scores.size(1);
    params.num_choices = indices.size(1);
    params.scoring =
        ctx->saved_data["softmax"].toBool() ? kernels::Scoring::softmax : kernels::Scoring::sigmoid;
    params.normalise = ctx->saved_data["normalise"].toBool();
    params.scale = ctx->saved_data["scale"].toDouble();
    params.scores = scores.const_data_ptr<float>();
    params.indices = indices.const_data_ptr<int32_t>();
    params.dweights = d_weights.defined() ? d_weights.const_data_ptr<float>() : nullptr;
    params.dscores = d_scores.defined() ? d_scores.const_data_ptr<float>() : nullptr;
    params.dlogits = d_logits.mutable_data_ptr<float>();
    kernels::router_backward(params);
    const at::Tensor none;
    return {d_logits, none, none, none};
  }
};

// 1 at the K largest scores of each row (ties to the lower column), else 0; neither bias nor groups.
at::Tensor mark_largest(const at::Tensor& scores, int64_t count) {
  at::Tensor marks = at::zeros_like(scores);
  if (!use_kernels(scores)) return marks.scatter(1, best_columns(scores, count), 1.0);
  const at::Tensor dense = scores.contiguous();
  const float* values = dense.const_data_ptr<float>();
  float* out = marks.mutable_data_ptr<float>();
  const int64_t E = dense.size(1);
  parallel_for(0, dense.size(0), 64, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t k = 0; k < count; ++k) {
        int64_t best = -1;
        for (int64_t e = 0; e < E; ++e)
          if (out[t * E + e] == 0 && (best < 0 || values[t * E + e] > values[t * E + best])) best = e;
        out[t * E + best] = 1;
      }
    }
  });
  return marks;
}

}  // namespace

Routing route(const at::Tensor& logits, const at::Tensor& correction_bias,
              const config::ModelConfig& config) {
  Routing routing;
  if (use_kernels(logits)) {
    variable_list out = RouteByKernel::apply(logits, &correction_bias, &config, &routing.indices);
    routing.weights = out[0];
    routing.scores = out[1];
    return routing;
  }
  routing.scores =
      config.scoring_func == config::ScoringFunc::sigmoid ? at::sigmoid(logits) : at::softmax(logits, -1);
  at::Tensor chosen;
  {
    at::NoGradGuard no_grad;
    chosen = choose(routing.scores.detach(), correction_bias, config);
  }
  routing.indices = chosen.to(at::kInt);
  at::Tensor weights = routing.scores.gather(1, chosen);
  if (config.norm_topk_prob) weights = weights / (weights.sum(-1, true) + 1e-20);
  routing.weights = weights * config.routed_scaling_factor;
  return routing;
}

at::Tensor sequence_balance_loss(const at::Tensor& scores, int64_t num_sequences,
                                 int64_t num_experts_per_tok) {
  const int64_t E = scores.size(1), S = scores.size(0) / num_sequences;
  at::Tensor f;
  {
    at::NoGradGuard no_grad;
    f = mark_largest(scores.detach(), num_experts_per_tok).view({num_sequences, S, E}).sum(1);
    f = f * (static_cast<double>(E) / static_cast<double>(num_experts_per_tok * S));
  }
  const at::Tensor P = (scores / (scores.sum(-1, true) + 1e-20)).view({num_sequences, S, E}).mean(1);
  return (f * P).sum();
}

}  // namespace fathom::ops

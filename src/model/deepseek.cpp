#include "model/deepseek.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>

#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/runtime.h"
#include "ops/vocab_loss.h"

namespace fathom::model {
namespace {

at::ScalarType angle_dtype(const weights::ParameterRegistry& registry) {
  return registry.precision() == config::Precision::fp64 ? at::kDouble : at::kFloat;
}

at::Tensor plus(const at::Tensor& sum, const at::Tensor& term) {
  if (!term.defined()) return sum;
  return sum.defined() ? sum + term : term;
}

}  // namespace

bool recomputes_layer(const config::RecomputeSection& recompute, int64_t layer_of_stage) {
  switch (recompute.kind) {
    case config::RecomputeKind::full:
      return true;
    case config::RecomputeKind::per_stage:
      return !recompute.layers.empty() && layer_of_stage < recompute.layers[0];
    default:
      return false;
  }
}

DeepseekModel::DeepseekModel(weights::ParameterRegistry& registry)
    : registry_(registry),
      rope_(registry.model(), angle_dtype(registry)),
      embedding_(registry.add("model.embed_tokens.weight")),
      norm_(registry.add("model.norm.weight")),
      head_(registry.add("lm_head.weight")) {
  const config::ModelConfig& c = registry.model();
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) layers_.emplace_back(registry, layer);
  for (int64_t k = 0; k < c.num_nextn_predict_layers; ++k)
    mtp_.emplace_back(registry, c.num_hidden_layers + k);
  registry.check_complete();
}

ForwardContext make_context(const MicroBatch& batch, const RopeTable& rope,
                            const config::RecomputeSection& recompute) {
  ForwardContext context;
  context.layout.num_sequences = batch.num_sequences;
  context.layout.seq_length = batch.seq_length;
  std::tie(context.layout.cos, context.layout.sin) = rope.at(batch.position_ids);
  context.layout.document_start = batch.document_start;
  context.recompute = recompute;
  return context;
}

at::Tensor DeepseekModel::trunk(const MicroBatch& batch, const ForwardContext& context,
                                at::Tensor* balance_loss) {
  at::Tensor x = ops::embedding(batch.tokens, embedding_);
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Moe::Output out =
        layers_[l].forward(x, context, recomputes_layer(context.recompute, static_cast<int64_t>(l)));
    x = out.y;
    if (balance_loss) *balance_loss = plus(*balance_loss, out.balance_loss);
  }
  return ops::rms_norm(x, norm_, registry_.model().rms_norm_eps);
}

at::Tensor DeepseekModel::hidden(const MicroBatch& batch, const config::RecomputeSection& recompute) {
  return trunk(batch, make_context(batch, rope_, recompute), nullptr);
}

LossReport DeepseekModel::loss(const MicroBatch& batch, const LossCoefficients& coefficients,
                               const config::RecomputeSection& recompute, bool count_load) {
  ForwardContext context = make_context(batch, rope_, recompute);
  context.balance_coefficient = coefficients.balance;
  context.count_load = count_load;
  at::Tensor balance;
  at::Tensor h = trunk(batch, context, &balance);
  const ops::VocabLoss main =
      ops::vocab_loss(h, head_, batch.targets, coefficients.main, coefficients.z_loss);

  LossReport report;
  report.total = main.loss;
  report.nll_sum = main.nll_sum;
  report.num_targets = main.num_targets;
  for (size_t d = 0; d < coefficients.mtp.size() && d < mtp_.size(); ++d) {
    const auto layer_of_stage = static_cast<int64_t>(layers_.size() + d);
    const MtpModule::Output out = mtp_[d].forward(h, ops::embedding(batch.mtp_tokens[d], embedding_), context,
                                                  recomputes_layer(recompute, layer_of_stage));
    h = out.hidden;
    balance = plus(balance, out.balance_loss);
    const ops::VocabLoss deeper = ops::vocab_loss(h, head_, batch.mtp_targets[d], coefficients.mtp[d]);
    report.total = report.total + deeper.loss;
    report.mtp_nll_sum.push_back(deeper.nll_sum);
    report.mtp_num_targets.push_back(deeper.num_targets);
  }
  if (balance.defined()) {
    report.total = report.total + balance;
    if (!balance.is_meta()) report.balance_loss = balance.item<double>();
  }
  return report;
}

at::Tensor DeepseekModel::logits(const at::Tensor& hidden) {
  at::NoGradGuard no_grad;
  return at::mm(hidden, head_.value.t()).to(ops::accumulate_dtype(hidden));
}

LatentCache DeepseekModel::make_cache(int64_t max_tokens) const {
  return LatentCache(registry_.model().num_hidden_layers, registry_.model().latent_dim(), max_tokens,
                     weights::value_dtype(registry_.precision()));
}

ForwardContext DeepseekModel::cache_context(int64_t first_position, int64_t count) const {
  ForwardContext context;
  context.layout.num_sequences = 1;
  context.layout.seq_length = count;
  const at::Tensor positions =
      at::arange(first_position, first_position + count, at::TensorOptions().dtype(at::kLong));
  std::tie(context.layout.cos, context.layout.sin) = rope_.at(positions);
  return context;
}

at::Tensor DeepseekModel::prefill(const at::Tensor& tokens, LatentCache& cache) {
  at::NoGradGuard no_grad;
  const ForwardContext context = cache_context(0, tokens.size(0));
  at::Tensor x = ops::embedding(tokens, embedding_);
  for (size_t l = 0; l < layers_.size(); ++l)
    x = layers_[l].prefill(x, context, cache, static_cast<int64_t>(l));
  cache.advance(tokens.size(0));
  return ops::rms_norm(x, norm_, registry_.model().rms_norm_eps);
}

at::Tensor DeepseekModel::decode(int64_t token, LatentCache& cache) {
  at::NoGradGuard no_grad;
  const ForwardContext context = cache_context(cache.length(), 1);
  at::Tensor x = ops::embedding(at::full({1}, token, at::TensorOptions().dtype(at::kLong)), embedding_);
  for (size_t l = 0; l < layers_.size(); ++l)
    x = layers_[l].decode(x, context, cache, static_cast<int64_t>(l));
  cache.advance(1);
  return ops::rms_norm(x, norm_, registry_.model().rms_norm_eps);
}

std::vector<Moe*> DeepseekModel::moe_layers() {
  std::vector<Moe*> result;
  for (DecoderLayer& layer : layers_)
    if (layer.moe()) result.push_back(layer.moe());
  for (MtpModule& module : mtp_)
    if (module.block().moe()) result.push_back(module.block().moe());
  return result;
}

}  // namespace fathom::model

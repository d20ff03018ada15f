#include "model/deepseek.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>

#include "model/vocab_parallel.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/runtime.h"

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

bool recomputes_layer(const config::RecomputeSection& recompute, int64_t stage, int64_t layer_of_stage) {
  switch (recompute.kind) {
    case config::RecomputeKind::full:
      return true;
    case config::RecomputeKind::per_stage:
      return stage < static_cast<int64_t>(recompute.layers.size()) &&
             layer_of_stage < recompute.layers[static_cast<size_t>(stage)];
    default:
      return false;
  }
}

DeepseekModel::DeepseekModel(weights::ParameterRegistry& registry, const ModelRanks& ranks,
                             const ModelPart& part)
    : registry_(registry), ranks_(ranks), part_(part), rope_(registry.model(), angle_dtype(registry)) {
  const config::ModelConfig& c = registry.model();
  if (part_.end_layer < 0) part_.end_layer = c.num_hidden_layers;
  const char* embedding = "model.embed_tokens.weight";
  if (part_.has_embedding || (part_.has_head && c.num_nextn_predict_layers > 0)) {
    embedding_ = registry.find(embedding).first;  // another part of this rank may have it already
    if (!embedding_) embedding_ = &add_vocab_rows(registry, ranks, embedding);
  }
  if (part_.has_head) {
    norm_ = &registry.add("model.norm.weight");
    head_ = &add_vocab_rows(registry, ranks, "lm_head.weight");
  }
  for (int64_t layer = part_.first_layer; layer < part_.end_layer; ++layer)
    layers_.emplace_back(registry, ranks, layer);
  if (part_.has_head)
    for (int64_t k = 0; k < c.num_nextn_predict_layers; ++k)
      mtp_.emplace_back(registry, ranks, c.num_hidden_layers + k);
  const bool is_whole = part_.has_embedding && part_.has_head && part_.first_layer == 0 &&
                        part_.end_layer == c.num_hidden_layers;
  if (is_whole) registry.check_complete();
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

at::Tensor DeepseekModel::embed(const at::Tensor& tokens) {
  return embed_tokens(tokens, *embedding_, registry_.model().vocab_size, ranks_);
}

at::Tensor DeepseekModel::run_layers(at::Tensor x, const ForwardContext& context, at::Tensor* balance_loss) {
  for (size_t l = 0; l < layers_.size(); ++l) {
    const int64_t layer_of_stage = part_.layers_before + static_cast<int64_t>(l);
    const Moe::Output out =
        layers_[l].forward(x, context, recomputes_layer(context.recompute, part_.stage, layer_of_stage));
    x = out.y;
    if (balance_loss) *balance_loss = plus(*balance_loss, out.balance_loss);
  }
  return x;
}

at::Tensor DeepseekModel::final_norm(const at::Tensor& x) {
  return ops::rms_norm(x, *norm_, registry_.model().rms_norm_eps);
}

at::Tensor DeepseekModel::hidden(const MicroBatch& batch, const config::RecomputeSection& recompute) {
  return final_norm(run_layers(embed(batch.tokens), make_context(batch, rope_, recompute), nullptr));
}

ops::VocabLoss DeepseekModel::head_loss(const at::Tensor& hidden, const at::Tensor& targets,
                                        double coefficient, double z_loss) {
  return model::token_loss(hidden, *head_, targets, coefficient, z_loss, registry_.model().vocab_size,
                           ranks_);
}

void DeepseekModel::add_losses(at::Tensor h, const MicroBatch& batch, const LossCoefficients& coefficients,
                               const ForwardContext& context, at::Tensor& balance, LossReport& report) {
  const ops::VocabLoss main = head_loss(h, batch.targets, coefficients.main, coefficients.z_loss);
  report.total = main.loss;
  report.nll_sum = main.nll_sum;
  report.num_targets = main.num_targets;
  for (size_t d = 0; d < coefficients.mtp.size() && d < mtp_.size(); ++d) {
    const auto layer_of_stage = part_.layers_before + static_cast<int64_t>(layers_.size() + d);
    const MtpModule::Output out =
        mtp_[d].forward(h, embed(batch.mtp_tokens[d]), context,
                        recomputes_layer(context.recompute, part_.stage, layer_of_stage));
    h = out.hidden;
    balance = plus(balance, out.balance_loss);
    const ops::VocabLoss deeper = head_loss(h, batch.mtp_targets[d], coefficients.mtp[d]);
    report.total = report.total + deeper.loss;
    report.mtp_nll_sum.push_back(deeper.nll_sum);
    report.mtp_num_targets.push_back(deeper.num_targets);
  }
}

DeepseekModel::PartOutput DeepseekModel::forward(const at::Tensor& input, const MicroBatch& batch,
                                                 const LossCoefficients& coefficients,
                                                 const config::RecomputeSection& recompute, bool count_load) {
  ForwardContext context = make_context(batch, rope_, recompute);
  context.balance_coefficient = coefficients.balance;
  context.count_load = count_load;
  at::Tensor balance;
  const at::Tensor x = run_layers(part_.has_embedding ? embed(batch.tokens) : input, context, &balance);
  PartOutput output;
  if (part_.has_head)
    add_losses(final_norm(x), batch, coefficients, context, balance, output.report);
  else
    output.hidden = x;
  if (balance.defined()) {
    output.report.total = plus(output.report.total, balance);
    if (!balance.is_meta()) output.report.balance_loss = balance.item<double>();
  }
  return output;
}

LossReport DeepseekModel::loss(const MicroBatch& batch, const LossCoefficients& coefficients,
                               const config::RecomputeSection& recompute, bool count_load) {
  return forward(at::Tensor(), batch, coefficients, recompute, count_load).report;
}

at::Tensor DeepseekModel::logits(const at::Tensor& hidden) {
  at::NoGradGuard no_grad;
  return at::mm(hidden, head_->value.t()).to(ops::accumulate_dtype(hidden));
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
  at::Tensor x = ops::embedding(tokens, *embedding_);
  for (size_t l = 0; l < layers_.size(); ++l)
    x = layers_[l].prefill(x, context, cache, static_cast<int64_t>(l));
  cache.advance(tokens.size(0));
  return final_norm(x);
}

at::Tensor DeepseekModel::decode(int64_t token, LatentCache& cache) {
  at::NoGradGuard no_grad;
  const ForwardContext context = cache_context(cache.length(), 1);
  at::Tensor x = ops::embedding(at::full({1}, token, at::TensorOptions().dtype(at::kLong)), *embedding_);
  for (size_t l = 0; l < layers_.size(); ++l)
    x = layers_[l].decode(x, context, cache, static_cast<int64_t>(l));
  cache.advance(1);
  return final_norm(x);
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

#include "quantize/layer_stream.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/Device.h>

#include "base/error.h"
#include "base/progress.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "weights/load_weights.h"

namespace fathom::quantize {

LayerStream::LayerStream(const std::filesystem::path& checkpoint, const config::ModelConfig& config,
                         config::Precision precision, const std::vector<model::Window>& windows)
    : checkpoint_(checkpoint),
      reader_(checkpoint),
      config_(config),
      precision_(precision),
      rope_(config, at::kFloat) {
  const at::NoGradGuard no_grad;
  Block embedding = make_block();
  ops::Weight& table = embedding.registry->add("model.embed_tokens.weight");
  fill(embedding);
  for (const model::Window& window : windows) {
    batches_.push_back(model::make_micro_batch({window}, config_.num_nextn_predict_layers));
    states_.push_back(ops::embedding(batches_.back().tokens, table));
  }
}

Block LayerStream::make_block() const {
  Block block;
  block.registry = std::make_unique<weights::ParameterRegistry>(config_, precision_, c10::Device(c10::kCPU),
                                                                /*trained=*/false);
  return block;
}

void LayerStream::fill(Block& block) const {
  weights::load_parameters(*block.registry, reader_, checkpoint_);
}

Block LayerStream::load(int64_t layer) const {
  Block block = make_block();
  if (layer < config_.num_hidden_layers) {
    block.decoder = std::make_unique<model::DecoderLayer>(*block.registry, model::ModelRanks{}, layer);
  } else {
    block.mtp = std::make_unique<model::MtpModule>(*block.registry, model::ModelRanks{}, layer);
    block.embedding = &block.registry->add("model.embed_tokens.weight");
  }
  fill(block);
  return block;
}

at::Tensor LayerStream::forward(Block& block, int64_t sample) const {
  const at::NoGradGuard no_grad;
  const auto s = static_cast<size_t>(sample);
  const model::MicroBatch& batch = batches_[s];
  const model::ForwardContext context = model::make_context(batch, rope_);
  if (block.decoder) return block.decoder->forward(states_[s], context, /*recompute=*/false).y;
  const size_t depth = static_cast<size_t>(block.mtp->block().layer() - config_.num_hidden_layers);
  return block.mtp
      ->forward(states_[s], ops::embedding(batch.mtp_tokens[depth], *block.embedding), context,
                /*recompute=*/false)
      .hidden;
}

void LayerStream::run(const std::function<bool()>& is_stopped) {
  Progress progress("running " + checkpoint_.filename().string(),
                    static_cast<uint64_t>(config_.num_hidden_layers), "layers");
  for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
    Block block = load(layer);
    for (int64_t s = 0; s < num_samples(); ++s) {
      if (is_stopped()) throw Error("stopped by a signal");
      state(s) = forward(block, s);
    }
    progress.advance(1);
  }
  finish_trunk();
}

void LayerStream::finish_trunk() {
  const at::NoGradGuard no_grad;
  Block block = make_block();
  ops::Weight& norm = block.registry->add("model.norm.weight");
  fill(block);
  for (at::Tensor& state : states_) state = ops::rms_norm(state, norm, config_.rms_norm_eps);
}

Block LayerStream::load_head() const {
  Block block = make_block();
  block.registry->add("lm_head.weight");
  fill(block);
  return block;
}

}  // namespace fathom::quantize

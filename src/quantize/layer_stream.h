// A model that need not fit into memory: one block's weights at a time, over the hidden states of all samples. The
// arithmetic is the training forward of src/model, sample by sample.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/stop_signal.h"
#include "formats/sharded_safetensors.h"
#include "model/deepseek.h"
#include "model/micro_batch.h"
#include "weights/parameter_registry.h"

namespace fathom::quantize {

// A layer of the trunk, or an MTP module, with its weights.
struct Block {
  std::unique_ptr<weights::ParameterRegistry> registry;  // outlives what refers to it
  std::unique_ptr<model::DecoderLayer> decoder;
  std::unique_ptr<model::MtpModule> mtp;
  ops::Weight* embedding = nullptr;  // of an MTP module
};

class LayerStream {
 public:
  // `config` as in the checkpoint; with num_nextn_predict_layers 0 the MTP modules are left alone. fp32 or bf16.
  LayerStream(const std::filesystem::path& checkpoint, const config::ModelConfig& config,
              config::Precision precision, const std::vector<model::Window>& windows);

  int64_t num_blocks() const { return config_.num_layers_with_mtp(); }
  int64_t num_samples() const { return static_cast<int64_t>(batches_.size()); }
  const config::ModelConfig& model() const { return config_; }
  const model::MicroBatch& batch(int64_t sample) const { return batches_[static_cast<size_t>(sample)]; }

  // Hidden states before the next block: the embeddings at first; after the trunk, behind its final norm.
  at::Tensor& state(int64_t sample) { return states_[static_cast<size_t>(sample)]; }
  Block load(int64_t layer) const;
  // What the block makes of state(sample), [T, D]. An MTP module's output is behind its norm.
  at::Tensor forward(Block& block, int64_t sample) const;
  // All layers of the trunk and the final norm. Throws Error when stopped.
  void run(const std::function<bool()>& is_stopped = stop_requested);
  void finish_trunk();  // call once, after the last layer of the trunk
  // lm_head.weight, for a loss over the states behind the final norm.
  Block load_head() const;

 private:
  Block make_block() const;
  void fill(Block& block) const;
  std::filesystem::path checkpoint_;
  formats::ShardedReader reader_;
  config::ModelConfig config_;
  config::Precision precision_;
  model::RopeTable rope_;
  std::vector<model::MicroBatch> batches_;
  std::vector<at::Tensor> states_;
};

}  // namespace fathom::quantize

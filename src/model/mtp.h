// A multi-token prediction module (report §2.2, eqs. 21-25), with the conventions of DeepSeek's own weights:
// eh_proj([enorm(embedding of the token d places on), hnorm(hidden)]), one decoder layer, shared_head.norm; embedding and
// head are the trunk's. The hidden state of depth 1 is the trunk's after its final norm, of depth d > 1 the normed output of
// depth d-1.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/decoder_layer.h"

namespace fathom::model {

class MtpModule {
 public:
  MtpModule(weights::ParameterRegistry& registry, const ModelRanks& ranks,
            int64_t layer);  // layer = num_hidden_layers + depth - 1

  struct Output {
    at::Tensor hidden;  // [T, D] normed: goes to the head and to the next depth
    at::Tensor balance_loss;
  };
  Output forward(const at::Tensor& hidden, const at::Tensor& next_embedding, const ForwardContext& context,
                 bool recompute);
  DecoderLayer& block() { return block_; }

 private:
  double eps_;
  ops::Weight& enorm_;
  ops::Weight& hnorm_;
  ops::Weight& eh_proj_;  // [D, 2D]
  DecoderLayer block_;
  ops::Weight& norm_;  // shared_head.norm
};

}  // namespace fathom::model

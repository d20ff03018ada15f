// The whole model on one rank: embedding, decoder layers, final norm, head, MTP modules.
#pragma once

#include <ATen/core/Tensor.h>

#include <deque>
#include <vector>

#include "model/decoder_layer.h"
#include "model/mtp.h"
#include "model/rope_table.h"
#include "weights/parameter_registry.h"

namespace fathom::model {

// One micro-batch: B sequences of S tokens, flattened to T = B*S.
struct MicroBatch {
  int64_t num_sequences = 0, seq_length = 0;
  at::Tensor tokens;                    // int64 [T]
  at::Tensor targets;                   // int64 [T]: the next token, or ops::kIgnoreTarget
  at::Tensor position_ids;              // int64 [T]
  at::Tensor document_start;            // int32 [T] or undefined: ops::SequenceLayout
  std::vector<at::Tensor> mtp_tokens;   // depth d: the token d places on (0 where there is none)
  std::vector<at::Tensor> mtp_targets;  // depth d: the token d+1 places on, or ops::kIgnoreTarget
};

// Factors of the sums of losses: weights over the global counts of trained targets of the whole step.
struct LossCoefficients {
  double main = 1;          // 1 / targets
  std::vector<double> mtp;  // weight / (D * targets of that depth); empty: MTP does not run
  double balance = 0;       // alpha / sequences
  double z_loss = 0;
};

struct LossReport {
  at::Tensor total;  // scalar, differentiable
  double nll_sum = 0;
  int64_t num_targets = 0;
  std::vector<double> mtp_nll_sum;  // per depth
  std::vector<int64_t> mtp_num_targets;
  double balance_loss = 0;  // coefficient included, summed over layers
};

// What the layers share in a pass over `batch`.
ForwardContext make_context(const MicroBatch& batch, const RopeTable& rope,
                            const config::RecomputeSection& recompute = {});

class DeepseekModel {
 public:
  explicit DeepseekModel(weights::ParameterRegistry& registry);  // registers every parameter

  LossReport loss(const MicroBatch& batch, const LossCoefficients& coefficients,
                  const config::RecomputeSection& recompute, bool count_load);
  // Hidden states after the final norm, [T, D]: no head.
  at::Tensor hidden(const MicroBatch& batch, const config::RecomputeSection& recompute = {});
  at::Tensor logits(const at::Tensor& hidden);  // [T, D] -> [T, V], float (double in proofs)

  LatentCache make_cache(int64_t max_tokens) const;
  at::Tensor prefill(const at::Tensor& tokens,
                     LatentCache& cache);                // int64 [T], cache empty -> hidden [T, D]
  at::Tensor decode(int64_t token, LatentCache& cache);  // the token at cache.length() -> hidden [1, D]

  std::vector<Moe*> moe_layers();  // trunk, then MTP
  ops::Weight& head() { return head_; }
  weights::ParameterRegistry& registry() { return registry_; }

 private:
  at::Tensor trunk(const MicroBatch& batch, const ForwardContext& context, at::Tensor* balance_loss);
  ForwardContext cache_context(int64_t first_position, int64_t count) const;

  weights::ParameterRegistry& registry_;
  RopeTable rope_;
  ops::Weight& embedding_;
  std::deque<DecoderLayer> layers_;
  ops::Weight& norm_;
  ops::Weight& head_;
  std::deque<MtpModule> mtp_;
};

}  // namespace fathom::model

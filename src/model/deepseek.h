// The model, or a pipeline stage's part of it: embedding, decoder layers, final norm, head, MTP modules.
#pragma once

#include <ATen/core/Tensor.h>

#include <deque>
#include <vector>

#include "model/decoder_layer.h"
#include "model/mtp.h"
#include "model/rope_table.h"
#include "ops/vocab_loss.h"
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
  at::Tensor total;  // scalar, differentiable; undefined of a part without losses
  double nll_sum = 0;
  int64_t num_targets = 0;
  std::vector<double> mtp_nll_sum;  // per depth
  std::vector<int64_t> mtp_num_targets;
  double balance_loss = 0;  // coefficient included, summed over layers
};

// What the layers share in a pass over `batch`.
ForwardContext make_context(const MicroBatch& batch, const RopeTable& rope,
                            const config::RecomputeSection& recompute = {});

// Consecutive layers, and what stands at the ends. Default: everything.
struct ModelPart {
  int64_t first_layer = 0, end_layer = -1;  // of the trunk; -1: num_hidden_layers
  bool has_embedding = true;
  bool has_head = true;  // final norm, head, MTP modules (which use the embedding too)
  int64_t stage = 0,
          layers_before = 0;  // its pipeline stage, and how many of the stage's layers are in parts before it
};

class DeepseekModel {
 public:
  // Registers every parameter. The communicators of `ranks` outlive the model.
  explicit DeepseekModel(weights::ParameterRegistry& registry, const ModelRanks& ranks = {},
                         const ModelPart& part = {});

  LossReport loss(const MicroBatch& batch, const LossCoefficients& coefficients,
                  const config::RecomputeSection& recompute, bool count_load);
  // The part's own share of that: `input` is the hidden state of the part before, this rank's rows of [T, D] (undefined
  // where the embedding is here); report.total holds the losses that arise here.
  struct PartOutput {
    at::Tensor hidden;  // to the part behind; undefined where the head is here
    LossReport report;
  };
  PartOutput forward(const at::Tensor& input, const MicroBatch& batch, const LossCoefficients& coefficients,
                     const config::RecomputeSection& recompute, bool count_load);
  // Hidden states after the final norm, this rank's rows of [T, D]: no head.
  at::Tensor hidden(const MicroBatch& batch, const config::RecomputeSection& recompute = {});
  at::Tensor logits(const at::Tensor& hidden);  // [T, D] -> [T, V], float (double in proofs)

  LatentCache make_cache(int64_t max_tokens) const;
  at::Tensor prefill(const at::Tensor& tokens,
                     LatentCache& cache);                // int64 [T], cache empty -> hidden [T, D]
  at::Tensor decode(int64_t token, LatentCache& cache);  // the token at cache.length() -> hidden [1, D]

  std::vector<Moe*> moe_layers();  // trunk, then MTP
  ops::Weight& head() { return *head_; }
  weights::ParameterRegistry& registry() { return registry_; }

 private:
  at::Tensor run_layers(at::Tensor x, const ForwardContext& context, at::Tensor* balance_loss);
  at::Tensor final_norm(const at::Tensor& x);
  void add_losses(at::Tensor h, const MicroBatch& batch, const LossCoefficients& coefficients,
                  const ForwardContext& context, at::Tensor& balance, LossReport& report);
  ForwardContext cache_context(int64_t first_position, int64_t count) const;

  at::Tensor embed(const at::Tensor& tokens);
  ops::VocabLoss head_loss(const at::Tensor& hidden, const at::Tensor& targets, double coefficient,
                           double z_loss = 0);

  weights::ParameterRegistry& registry_;
  ModelRanks ranks_;
  ModelPart part_;
  RopeTable rope_;
  ops::Weight* embedding_ = nullptr;
  std::deque<DecoderLayer> layers_;
  ops::Weight* norm_ = nullptr;
  ops::Weight* head_ = nullptr;
  std::deque<MtpModule> mtp_;
};

}  // namespace fathom::model

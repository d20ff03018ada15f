// The mixture-of-experts layer (report §2.1.2): router, routed experts, shared experts.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <vector>

#include "model/forward_context.h"
#include "model/mlp.h"
#include "model/model_ranks.h"
#include "ops/router.h"
#include "weights/parameter_registry.h"

namespace fathom::model {

class Moe {
 public:
  Moe(weights::ParameterRegistry& registry, const ModelRanks& ranks, int64_t layer);

  struct Output {
    at::Tensor y;  // [T, D]
    at::Tensor
        balance_loss;  // scalar: coefficient times the sequence-wise loss; undefined when not asked for
  };
  // x: this rank's tokens; so is y.
  Output forward(const at::Tensor& x, const ForwardContext& context);

  int64_t layer() const { return layer_; }
  // Tokens that each expert received since the last clear, [E]: this rank's until the trainer adds the others'.
  const std::vector<int64_t>& load() const { return load_; }
  std::vector<int64_t>& load() { return load_; }
  void clear_load();
  weights::Parameter* correction_bias() { return correction_bias_; }  // null in V2
  // The choices of the last forward, [T, K] (for tests and routing dumps).
  const at::Tensor& last_indices() const { return last_indices_; }

 private:
  at::Tensor routed(const at::Tensor& x, const ops::Routing& routing, bool counts);
  at::Tensor shared(const at::Tensor& x, const ForwardContext& context) const;

  const config::ModelConfig& config_;
  ModelRanks ranks_;
  int64_t layer_;
  ops::Weight& gate_;
  weights::Parameter* correction_bias_ = nullptr;
  ops::Weight& experts_gate_up_;  // [E, 2F, D] of this rank's experts
  ops::Weight& experts_down_;     // [E, D, F]
  std::optional<Mlp> shared_;
  std::vector<int64_t> load_;
  at::Tensor last_indices_;
};

}  // namespace fathom::model

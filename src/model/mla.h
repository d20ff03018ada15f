// Multi-head latent attention (report §2.1.1): training forward, and prefill and decode over the latent cache.
#pragma once

#include <ATen/core/Tensor.h>

#include "config/model_config.h"
#include "model/forward_context.h"
#include "model/latent_cache.h"
#include "model/model_ranks.h"
#include "ops/attention.h"
#include "weights/parameter_registry.h"

namespace fathom::model {

// The norms of the latents use this whatever rms_norm_eps says: so does the code that the published weights come with.
inline constexpr double kLatentNormEps = 1e-6;

class Mla {
 public:
  // Tensor ranks have N/n heads each, and every latent.
  Mla(weights::ParameterRegistry& registry, const ModelRanks& ranks, int64_t layer);

  // x [T, D] (normed): this rank's tokens; so is the output.
  at::Tensor forward(const at::Tensor& x, const ForwardContext& context) const;
  // The expanded form over the T tokens of one sequence that starts here; their latents go to the cache.
  at::Tensor prefill(const at::Tensor& x, const ForwardContext& context, LatentCache& cache,
                     int64_t cache_layer) const;
  // The absorbed form (W_UK into the query, W_UV into the output): x [1, D] is the token at `position`.
  at::Tensor decode(const at::Tensor& x, const ForwardContext& context, LatentCache& cache,
                    int64_t cache_layer) const;

 private:
  struct Projected {
    at::Tensor query_latent;  // [T, Q] normed, or x itself without query compression
    at::Tensor kv_latent;     // [T, C] normed
    at::Tensor k_rope;        // [T, R] not rotated
  };
  Projected split(const at::Tensor& down) const;  // down [T, Q+C+R], the down-projection's output
  at::Tensor expand_and_attend(const Projected& projected, const ForwardContext& context) const;
  at::Tensor attend_in_parts(const at::Tensor& x, const ForwardContext& context) const;

  ModelRanks ranks_;
  ops::MlaShape shape_;
  int64_t q_lora_rank_, kv_lora_rank_;
  ops::Weight& down_;  // [q_a (or q) rows, then kv_a rows; D]; kv_a alone where `q_up_` is q
  ops::Weight* q_a_norm_ = nullptr;
  ops::Weight* q_up_ = nullptr;  // q_b; without query compression null, or q where it is cut
  ops::Weight& kv_norm_;
  ops::Weight& kv_up_;  // kv_b [N*(H+V), C]
  ops::Weight& out_;
};

}  // namespace fathom::model

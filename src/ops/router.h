// The router's choice (report §2.1.2, eqs. 13-16; V2: softmax scores): float32 from the logits on.
#pragma once

#include <ATen/core/Tensor.h>

#include "config/model_config.h"

namespace fathom::ops {

struct Routing {
  at::Tensor indices;  // [T, K] int32, ordered by descending choice score; ties go to the lower expert
  at::Tensor
      weights;  // [T, K] float: unbiased scores of the chosen, normalised if norm_topk_prob, times the factor
  at::Tensor scores;  // [T, E] float: sigmoid or softmax of the logits (for the balance loss)
};

// logits [T, E] float (double in proofs); correction_bias [E] float or undefined: added for the choice only (NUM-2).
// Groups that are not kept never win, whatever the sign of the biased scores. Differentiable in weights and scores.
Routing route(const at::Tensor& logits, const at::Tensor& correction_bias, const config::ModelConfig& config);

// The sequence-wise balance loss (report eqs. 17-20) of B sequences: sum over sequences of sum_i f_i P_i, with f from
// the top-K of the unbiased scores (no gradient) and P the mean normalised score. scores [T, E]. Returns a scalar.
at::Tensor sequence_balance_loss(const at::Tensor& scores, int64_t num_sequences,
                                 int64_t num_experts_per_tok);

}  // namespace fathom::ops

// Output projection and cross-entropy as one chunked operation: the logits of a whole batch never exist (MEM-1).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "ops/weight.h"

namespace fathom::ops {

inline constexpr int64_t kIgnoreTarget = -100;

struct VocabLoss {
  at::Tensor
      loss;  // scalar float (double): coefficient * (sum of nll + z_loss * sum of lse^2); differentiable
  double nll_sum = 0;  // sum of -log p(target) over the targets that count
  int64_t num_targets = 0;
};

// A head of which each rank of a group has some rows: what they must agree on. Default: the whole vocabulary.
struct VocabSlice {
  int64_t first = 0;                          // the vocabulary index of the head's first row
  std::function<void(at::Tensor&)> sum, max;  // over the group, in place; empty: a group of one
  bool is_whole() const { return !sum; }
};

// hidden [T, D], head.value [V, D], targets int64 [T] in [0, V) or kIgnoreTarget (loss and gradient exactly zero).
// Targets are indices of the whole vocabulary, of which `head` holds `slice`; nll_sum and num_targets are then the same on
// every rank, and the gradient of hidden is this slice's part of a sum (NUM-12). Log-sum-exp in float.
// With gradients on, those of hidden and head are computed here, chunk by chunk; backward only hands them on, so
// `loss` must enter the total with factor 1 (`coefficient` is for weights and normalisation): else NumericError.
VocabLoss vocab_loss(const at::Tensor& hidden, Weight& head, const at::Tensor& targets, double coefficient,
                     double z_loss = 0, const VocabSlice& slice = {});

// log p of each target, [T] float, no gradient (evaluation, reported log-probabilities); 0 where ignored.
at::Tensor target_log_probs(const at::Tensor& hidden, const Weight& head, const at::Tensor& targets);

}  // namespace fathom::ops

// What one micro-batch's pass through the layers shares.
#pragma once

#include "config/recipe.h"
#include "ops/attention.h"

namespace fathom::model {

struct ForwardContext {
  ops::SequenceLayout layout;  // B sequences of S tokens, their rotary angles and documents
  double balance_coefficient =
      0;                    // factor of each sequence's balance loss: alpha / sequences of the global batch
  bool count_load = false;  // training: experts' loads are counted (never twice under recompute)
  config::RecomputeSection recompute;

  int64_t num_tokens() const { return layout.num_sequences * layout.seq_length; }
  bool recomputes_selectively() const { return recompute.kind == config::RecomputeKind::selective; }
};

// Under RecomputeKind::per_stage the first layers[stage] of a stage's layers are recomputed.
bool recomputes_layer(const config::RecomputeSection& recompute, int64_t stage, int64_t layer_of_stage);

}  // namespace fathom::model

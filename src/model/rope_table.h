// Cosine and sine of each position and rotary pair: position * inv_freq (YaRN's interpolation and amplitude included,
// ModelConfig::rope_inv_freq, rope_amplitude).
#pragma once

#include <ATen/core/Tensor.h>

#include "config/model_config.h"

namespace fathom::model {

class RopeTable {
 public:
  // dtype float (angles in float, as HF computes them) or double for fp64 proofs.
  RopeTable(const config::ModelConfig& config, at::ScalarType dtype);
  // position_ids int64 [T] -> cos, sin [T, R/2].
  std::pair<at::Tensor, at::Tensor> at(const at::Tensor& position_ids) const;

 private:
  at::Tensor inv_freq_;
  double amplitude_;
};

}  // namespace fathom::model

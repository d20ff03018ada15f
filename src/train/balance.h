// Aux-loss-free load balance (DeepSeek-V3 report §2.1.2): after each optimizer step every MoE layer's correction bias
// moves against its experts' load over the whole global batch.
#pragma once

#include <cstdint>
#include <vector>

#include "model/moe.h"
#include "train/metrics.h"

namespace fathom::train {

// bias[e] += rate * sign(mean(load) - load[e]), in float; `recenter` then takes the mean of the new bias away (NUM-4;
// the choice of experts is the same either way). No change where the load is zero throughout.
void update_bias(float* bias, const std::vector<int64_t>& load, double rate, bool recenter);

struct LayerCounts {
  int64_t layer = 0;
  std::vector<int64_t> tokens;  // of each expert
};
// Each layer's loads as shares times the number of experts (1 is balance); trunk first, then MTP.
ExpertLoad measure_load(const std::vector<LayerCounts>& layers, int64_t step);
double largest_violation(const ExpertLoad& load);  // MaxVio: max over layers of max load / mean - 1

}  // namespace fathom::train

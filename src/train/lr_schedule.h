// The learning rate of each optimizer step (recipe section train.lr).
#pragma once

#include <cstdint>

#include "config/recipe.h"

namespace fathom::train {

// Number of warm-up steps W: `warmup_steps`, or `warmup_ratio` of the run rounded to the nearest step.
int64_t warmup_steps(const config::LrSection& lr, int64_t total_steps);

// The rate of step s = `step`, counted from 0, of a run of T = `total_steps`. With W the warm-up's length:
//   warm-up      s < W: peak (s + 1) / W, so no step is taken at rate 0 and the last warm-up step is at the
//   peak constant     peak linear       peak + (min - peak) p            p = (s - W) / (D - W), cut to [0,
//   1]; D = decay_steps, which cosine       min + (peak - min) (1 + cos(pi p)) / 2              counts the
//   warm-up too, or T when it is 0 wsd          peak, then over the last n = decay_steps (0: T / 10, rounded,
//   at least 1) steps, but never
//                before the warm-up's end: q = (s - max(T - n, W)) / (T - max(T - n, W)), cut to [0, 1], and
//                linear or cosine as above, or sqrt: min + (peak - min) (1 - sqrt(q))
//   step         peak times step_factor for each entry of step_at that is <= s; `min` plays no part
//   deepseek_v3  peak while s < hold_until T; cosine to min while s < cosine_until T (from the warm-up's end
//   if
//                that is later); min while s < low_until T; then `final` (DeepSeek-V3 report, arXiv
//                2412.19437, section 4.2)
// The first step after the warm-up is at p = 0, the peak; `min` is reached at s = D, one step past the last
// when D is the whole run. A step past the end of the run holds the rate of s = T. Exact arithmetic in
// double, the same for every layout. A step below 0 counts as 0, a run of less than one step as one.
double learning_rate(const config::LrSection& lr, int64_t step, int64_t total_steps);

}  // namespace fathom::train

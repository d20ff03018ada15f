// What a person watching a run sees: a live line on a terminal, a plain line a step elsewhere and in the log
// file, and the loss as a small curve at the end.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "train/metrics.h"

namespace fathom::train {

// "step 120/2000  loss 5.2714  mtp 5.6100  norm 0.84  lr 2.20e-04  1,932 tok/s  maxvio 0.41  eta 32m10s".
// What was not measured is left out; a loss that is not a number reads "nan". `skipped N` and `eval X` appear
// where they are. With width > 0 (terminal columns) the least needed parts are left out until the line is
// narrower than that, and the rest is cut. eta_s < 0: not known, left out.
std::string format_step_line(const StepMetrics& metrics, int64_t total_steps, double eta_s, int width = 0);

// "loss 10.81 <curve> 5.21 (lowest 5.17 at step 1980)"; empty without a finite loss.
std::string format_loss_curve(const std::vector<StepMetrics>& history, int width = 40);

int terminal_width();  // of stderr; 80 where it does not say

// Not thread-safe. Writes through base/log.h: set_file(OUT/logs/rank_0.log) first.
class ProgressLine {
 public:
  // `log_every` (recipe log.every): a plain line for each step that is its multiple, the first, and the last,
  // each that was evaluated or skipped. The live line shows every step; on a terminal the last three kinds
  // stay above it, the others go to the log file only.
  ProgressLine(int64_t total_steps, int64_t resume_step, int64_t log_every);
  void step(const StepMetrics& metrics);
  // Removes the live line and prints the loss curve of `history` (read_metrics) and what the run took. Call
  // at any end.
  void finish(const std::vector<StepMetrics>& history);

 private:
  int64_t total_steps_, first_step_, log_every_, tokens_ = 0, skipped_ = 0;
  double step_s_ = 0,
         weight_ = 0;  // moving average of the wall time of a step, everything in between included
  std::chrono::steady_clock::time_point start_, last_;
};

}  // namespace fathom::train

// What a run measures: OUT/metrics.jsonl (one object a step) and OUT/expert_load.jsonl.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <vector>

#include "train/step_log.h"

namespace fathom::train {

inline constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

// One optimizer step; sums and means are over all ranks. NaN: not measured, or not a number; null in the
// file.
struct StepMetrics {
  int64_t step = 0;                    // steps done, this one included: the first is 1
  double loss = kNotMeasured;          // of the trunk, nats a token
  double mtp_loss = kNotMeasured;      // mean over the MTP modules, without its weight; no MTP: NaN
  double balance_loss = kNotMeasured;  // sequence-wise balance loss as it enters the sum
  double grad_norm = kNotMeasured;     // global, before clipping
  double lr = 0;
  int64_t tokens = 0;  // trained in this step
  double tokens_per_second = 0;
  double max_violation = kNotMeasured;  // MaxVio: max over layers of (largest expert load / mean load - 1)
  int64_t skipped = 0;                  // steps skipped so far for NaN or Inf
  double seconds = 0;                   // wall time of this step
  double eval_loss = kNotMeasured;      // on the held-out split after this step; NaN: no evaluation here
};

// Per MoE layer, each expert's share of the step's tokens times the number of experts: 1 is balance.
struct LayerLoad {
  int64_t layer = 0;         // index of the decoder layer, as in the HF names
  std::vector<double> load;  // [E]
};

struct ExpertLoad {
  int64_t step = 0;
  std::vector<LayerLoad> layers;
};

// OUT/metrics.jsonl. Keys of each line: step, loss, mtp_loss, balance_loss, grad_norm, lr, tokens,
// tokens_per_second, max_violation, skipped, seconds, and where the step was evaluated eval_loss and
// eval_perplexity (its exponential). Numbers read back to the same double. Opening for resume: StepLog.
class MetricsFile {
 public:
  MetricsFile(const std::filesystem::path& output_dir, int64_t resume_step);
  void append(const StepMetrics& metrics);  // throws FileError

 private:
  StepLog log_;
};

// OUT/expert_load.jsonl: {"step": 40, "layers": [{"layer": 3, "load": [1.02, ...]}, ...]}, four digits.
// Kept for some steps only, so that the file stays small whatever the run's length and model.
class ExpertLoadFile {
 public:
  ExpertLoadFile(const std::filesystem::path& output_dir, int64_t resume_step, int64_t total_steps);
  // Steps 1, total_steps and each multiple of the stride, total_steps / 400 rounded up: no more than 402.
  // Depends on the arguments only, so a resumed run keeps the same steps.
  bool wants(int64_t step) const;
  void append(const ExpertLoad& load);  // writes if wants(load.step); throws FileError

 private:
  StepLog log_;
  int64_t total_steps_, stride_;
};

std::filesystem::path metrics_path(const std::filesystem::path& output_dir);
std::filesystem::path expert_load_path(const std::filesystem::path& output_dir);

// Everything recorded, in order; empty where there is no file. Damaged lines are passed over. Throws
// FileError.
std::vector<StepMetrics> read_metrics(const std::filesystem::path& output_dir);
std::vector<ExpertLoad> read_expert_load(const std::filesystem::path& output_dir);

// max over experts of load / mean - 1; 0 for no experts or no load at all.
double max_violation(const std::vector<double>& load);

}  // namespace fathom::train

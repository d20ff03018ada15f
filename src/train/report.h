// OUT/report.html: a run on one page that needs nothing else (no network, no other file): facts, curves with
// hover read-out, expert-load heat maps. Light or dark as the browser asks; works on a phone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "train/metrics.h"

namespace fathom::train {

// What the history does not say. Empty texts and zeros are left out.
struct RunFacts {
  std::string model_name;         // "DeepSeek-V3 tiny", the config's file name, ...
  int64_t total_parameters = 0;   // MTP included
  int64_t active_parameters = 0;  // a token
  int64_t total_steps = 0;
  std::string precision;     // "bf16"
  bool is_finished = false;  // false: the page says that the run goes on
  // Further rows in this order: {"Recipe", "configs/recipes/tiny.yaml"}, {"Device", ...}, {"Sequence length",
  // ...}
  std::vector<std::pair<std::string, std::string>> more;
};

// The page. Curves have at most about 1500 points each (min and max of each range kept), the heat maps at
// most 160 steps and 3 MB. Any history works: none, one step, NaN, huge values. Pure.
std::string render_report(const RunFacts& facts, const std::vector<StepMetrics>& metrics,
                          const std::vector<ExpertLoad>& loads);

// Reads metrics.jsonl and expert_load.jsonl of `output_dir` and writes its report.html, whole or not at all.
// About half a second for 100,000 steps; safe beside a running MetricsFile. Throws FileError.
void write_report(const std::filesystem::path& output_dir, const RunFacts& facts);

}  // namespace fathom::train

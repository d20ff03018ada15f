// The flags of `fathom quantize` that look at texts, and what they start.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/quantize.h"
#include "eval/perplexity.h"
#include "eval/windows.h"
#include "quantize/calibrated.h"

namespace fathom::cli {

struct CalibrationFlags {
  std::string calibration, eval_text, method;
  std::optional<double> smoothquant;
  int64_t samples = 128, length = 0, eval_length = 0, min_expert_tokens = 128;
  double damping = 0.01;
  bool act_order = false;
  int threads = 0;

  void add_to(CLI::App& command);
  void check(const checkpoint::QuantizeOptions& options) const;  // throws UsageError
  bool calibrates() const { return !calibration.empty(); }
};

// Through calibration, or straight where no text is given (no layer is reported then).
quantize::CalibratedReport run_quantize(const std::filesystem::path& source,
                                        const std::filesystem::path& directory,
                                        const checkpoint::QuantizeOptions& options,
                                        const CalibrationFlags& flags);

// --eval-text, cut with the source's tokenizer: for checkpoints of the same model.
class HeldOutText {
 public:
  HeldOutText(const std::filesystem::path& source, const CalibrationFlags& flags);
  // One layer in memory at a time; the number of `fathom eval` with this seq_length.
  eval::Perplexity perplexity(const std::filesystem::path& checkpoint) const;

 private:
  eval::Windows windows_;
};

}  // namespace fathom::cli

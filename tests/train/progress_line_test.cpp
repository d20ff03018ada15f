#include "train/progress_line.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/file.h"
#include "base/log.h"
#include "support/scratch.h"

namespace fathom::train {
namespace {

StepMetrics sample(int64_t step) {
  StepMetrics m;
  m.step = step;
  m.loss = 5.27143;
  m.mtp_loss = 5.61;
  m.grad_norm = 0.84;
  m.lr = 2.2e-4;
  m.tokens = 4096;
  m.tokens_per_second = 1932.4;
  m.max_violation = 0.413;
  return m;
}

TEST(ProgressLine, all_parts) {
  EXPECT_EQ(
      format_step_line(sample(120), 2000, 1930),
      "step 120/2000  loss 5.2714  mtp 5.6100  norm 0.84  lr 2.20e-04  1,932 tok/s  maxvio 0.41  eta 32m10s");
}

TEST(ProgressLine, leaves_out_what_was_not_measured) {
  StepMetrics m = sample(1);
  m.mtp_loss = m.max_violation = kNotMeasured;
  m.eval_loss = 6;
  m.skipped = 3;
  m.loss = std::numeric_limits<double>::quiet_NaN();
  m.grad_norm = 12345;
  m.tokens_per_second = 1234567;
  EXPECT_EQ(format_step_line(m, 20, -1),
            "step 1/20  loss nan  eval 6.0000  norm 1.23e+04  lr 2.20e-04  1,234,567 tok/s  skipped 3");
}

TEST(ProgressLine, huge_values) {
  StepMetrics m = sample(1);
  m.loss = 1e30;
  m.grad_norm = std::numeric_limits<double>::infinity();
  m.tokens_per_second = 1e20;
  m.mtp_loss = m.max_violation = kNotMeasured;
  EXPECT_EQ(format_step_line(m, 20, -1), "step 1/20  loss 1e+30  norm inf  lr 2.20e-04  1e+20 tok/s");
}

TEST(ProgressLine, fits_any_terminal) {
  const StepMetrics m = sample(120);
  EXPECT_EQ(format_step_line(m, 2000, 1930, 80),
            "step 120/2000  loss 5.2714  mtp 5.6100  norm 0.84  1,932 tok/s  eta 32m10s");
  EXPECT_EQ(format_step_line(m, 2000, 1930, 46), "step 120/2000  loss 5.2714  eta 32m10s");
  for (int width = 1; width < 130; ++width)
    EXPECT_LT(format_step_line(m, 2000, 1930, width).size(), static_cast<size_t>(std::max(width, 2)));
}

TEST(ProgressLine, loss_curve) {
  std::vector<StepMetrics> history;
  EXPECT_EQ(format_loss_curve(history), "");
  for (int64_t s = 1; s <= 3; ++s) history.push_back(sample(s));
  history[0].loss = 8;
  history[1].loss = 1;
  history[2].loss = 4.5;
  history.push_back(sample(4));
  history.back().loss = kNotMeasured;
  EXPECT_EQ(format_loss_curve(history), "loss 8.0000 █▁▅ 4.5000 (lowest 1.0000 at step 2)");
}

TEST(ProgressLine, writes_plain_lines_to_the_log_file) {
  const test::ScratchDirectory scratch;
  log::set_file((scratch / "rank_0.log").string());
  ProgressLine progress(10, 0, 4);
  for (int64_t s = 1; s <= 10; ++s) {
    StepMetrics m = sample(s);
    m.skipped = s >= 6;
    if (s == 7) m.eval_loss = 5;
    progress.step(m);
  }
  progress.finish({sample(1), sample(2)});
  log::set_file("");
  const std::string text = read_text_file(scratch / "rank_0.log");
  for (int64_t s = 1; s <= 10; ++s) {
    const bool is_logged = s == 1 || s == 4 || s == 6 || s == 7 || s == 8 || s == 10;
    EXPECT_EQ(text.find(fmt::format("step {}/10 ", s)) != std::string::npos, is_logged) << s;
  }
  EXPECT_NE(text.find("loss 5.2714 ▁▁ 5.2714"), std::string::npos);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace fathom::train

#include "train/lr_schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace fathom::train {
namespace {

using config::LrScheduleKind;
using config::LrSection;

LrSection section(LrScheduleKind schedule, double peak, double min, int64_t warmup) {
  LrSection lr;
  lr.schedule = schedule;
  lr.peak = peak;
  lr.min = min;
  lr.warmup_steps = warmup;
  return lr;
}

TEST(LrSchedule, warm_up_starts_above_zero_and_ends_at_the_peak) {
  for (const auto kind : {LrScheduleKind::constant, LrScheduleKind::linear, LrScheduleKind::cosine,
                          LrScheduleKind::wsd, LrScheduleKind::deepseek_v3}) {
    const LrSection lr = section(kind, 4.0, 1.0, 4);
    EXPECT_DOUBLE_EQ(learning_rate(lr, 0, 100), 1.0);
    EXPECT_DOUBLE_EQ(learning_rate(lr, 1, 100), 2.0);
    EXPECT_DOUBLE_EQ(learning_rate(lr, 3, 100), 4.0);
    EXPECT_DOUBLE_EQ(learning_rate(lr, 4, 100), 4.0);
  }
}

TEST(LrSchedule, warm_up_by_ratio) {
  LrSection lr = section(LrScheduleKind::constant, 1.0, 0.0, 0);
  lr.warmup_ratio = 0.05;
  EXPECT_EQ(warmup_steps(lr, 200), 10);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 4, 200), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 10, 200), 1.0);
  EXPECT_EQ(warmup_steps(lr, 5), 0);  // 0.25 of a step
  lr.warmup_ratio = 0;
  EXPECT_DOUBLE_EQ(learning_rate(lr, 0, 200), 1.0);
}

TEST(LrSchedule, linear) {
  LrSection lr = section(LrScheduleKind::linear, 10.0, 2.0, 10);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 10, 50), 10.0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 20, 50), 8.0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 30, 50), 6.0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 49, 50), 2.2);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 50, 50), 2.0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 5000, 50), 2.0);  // past the end
  lr.decay_steps = 30;                                 // the warm-up's 10 and 20 of decline
  EXPECT_DOUBLE_EQ(learning_rate(lr, 15, 50), 8.0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 30, 50), 2.0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 45, 50), 2.0);
}

TEST(LrSchedule, cosine) {
  const LrSection lr = section(LrScheduleKind::cosine, 10.0, 2.0, 0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 0, 60), 10.0);
  EXPECT_NEAR(learning_rate(lr, 20, 60), 2 + 8 * 0.75, 1e-14);  // cos 60 degrees = 1/2
  EXPECT_NEAR(learning_rate(lr, 30, 60), 6.0, 1e-14);
  EXPECT_NEAR(learning_rate(lr, 40, 60), 2 + 8 * 0.25, 1e-14);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 60, 60), 2.0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 61, 60), 2.0);
}

TEST(LrSchedule, wsd) {
  LrSection lr = section(LrScheduleKind::wsd, 10.0, 2.0, 5);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 90, 100), 10.0);  // the last tenth begins
  EXPECT_DOUBLE_EQ(learning_rate(lr, 95, 100), 6.0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 89, 100), 10.0);
  lr.decay_steps = 40;
  EXPECT_DOUBLE_EQ(learning_rate(lr, 60, 100), 10.0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 70, 100), 8.0);
  lr.wsd_decay = "cosine";
  EXPECT_NEAR(learning_rate(lr, 80, 100), 6.0, 1e-14);
  lr.wsd_decay = "sqrt";
  EXPECT_DOUBLE_EQ(learning_rate(lr, 70, 100), 6.0);  // 1 - sqrt(1/4)
  EXPECT_DOUBLE_EQ(learning_rate(lr, 100, 100), 2.0);
  lr.decay_steps = 98;  // would begin inside the warm-up
  EXPECT_DOUBLE_EQ(learning_rate(lr, 4, 100), 10.0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 5, 100), 10.0);
  EXPECT_LT(learning_rate(lr, 6, 100), 10.0);
}

TEST(LrSchedule, step) {
  LrSection lr = section(LrScheduleKind::step, 8.0, 3.0, 2);
  lr.step_at = {10, 20};
  lr.step_factor = 0.25;
  EXPECT_DOUBLE_EQ(learning_rate(lr, 0, 30), 4.0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 9, 30), 8.0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 10, 30), 2.0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 20, 30), 0.5);  // below min, which plays no part
}

// The report's run in steps of 1B tokens: 10T held, 4.3T cosine, 333B at the minimum, 167B at the last rate.
TEST(LrSchedule, deepseek_v3) {
  const LrSection lr = section(LrScheduleKind::deepseek_v3, 2.2e-4, 2.2e-5, 20);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 0, 14800), 1.1e-5);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 20, 14800), 2.2e-4);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 9999, 14800), 2.2e-4);
  EXPECT_NEAR(learning_rate(lr, 12150, 14800), (2.2e-4 + 2.2e-5) / 2, 1e-15);  // middle of the cosine
  EXPECT_DOUBLE_EQ(learning_rate(lr, 14301, 14800), 2.2e-5);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 14632, 14800), 2.2e-5);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 14634, 14800), 7.3e-6);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 14799, 14800), 7.3e-6);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 20000, 14800), 7.3e-6);
}

TEST(LrSchedule, deepseek_v3_warm_up_longer_than_the_hold) {
  LrSection lr = section(LrScheduleKind::deepseek_v3, 2.0, 1.0, 5);
  lr.hold_until = 0.1;
  lr.cosine_until = 0.9;
  lr.low_until = 0.95;
  EXPECT_DOUBLE_EQ(learning_rate(lr, 5, 20), 2.0);  // the cosine starts here, not at step 2
  EXPECT_LT(learning_rate(lr, 6, 20), 2.0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 18, 20), 1.0);
}

TEST(LrSchedule, runs_of_one_step_and_of_none) {
  for (const auto kind : {LrScheduleKind::constant, LrScheduleKind::linear, LrScheduleKind::cosine,
                          LrScheduleKind::wsd, LrScheduleKind::deepseek_v3}) {
    EXPECT_DOUBLE_EQ(learning_rate(section(kind, 3.0, 1.0, 0), 0, 1), 3.0);
    EXPECT_DOUBLE_EQ(learning_rate(section(kind, 3.0, 1.0, 1), 0, 1), 3.0);
    EXPECT_TRUE(std::isfinite(learning_rate(section(kind, 3.0, 1.0, 0), 0, 0)));
    EXPECT_DOUBLE_EQ(learning_rate(section(kind, 3.0, 1.0, 2), -1, 4), 1.5);
  }
}

TEST(LrSchedule, warm_up_over_the_whole_run) {
  const LrSection lr = section(LrScheduleKind::cosine, 4.0, 1.0, 4);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 3, 4), 4.0);
  EXPECT_DOUBLE_EQ(learning_rate(lr, 4, 4), 1.0);  // past the end; nothing divides by zero
}

}  // namespace
}  // namespace fathom::train

// CK-1: a run that was killed or stopped and started again with the same command has the losses, and at its
// end the bytes, of one that never stopped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "e2e/kill_runs.h"

namespace fathom {
namespace {

using test::Sets;
using test::TinyRun;
using testing::HasSubstr;

class Resume : public testing::TestWithParam<const char*> {};

TEST_P(Resume, CK_1_killed_at_any_moment_the_losses_are_bit_identical) {
  const TinyRun run;
  const Sets sets = {fmt::format("train.precision={}", GetParam()), "checkpoint.every=3"};
  const test::Expected expected = test::uninterrupted(run, sets, 30);
  ASSERT_EQ(expected.numbers.size(), 30U);
  const int hits = test::kill_until_done(run, sets, "killed", 8, stream_key(11, GetParam()));
  EXPECT_GE(hits, 4) << "most kills came after the end";
  test::expect_same(run, expected, 30, "killed");
}

INSTANTIATE_TEST_SUITE_P(Precision, Resume, testing::Values("fp32", "bf16", "bf16_pure"),
                         [](const auto& info) { return std::string(info.param); });

// CK-1 as it was reported: half, then the other half.
TEST(ResumeRuns, CK_1_ten_and_ten_is_twenty) {
  const TinyRun run;
  const Sets common = {
      "checkpoint.every=10",        "data.reset_attention_mask=true",   "data.reset_position_ids=true",
      "train.lr.schedule=constant", "train.optimizer.state_dtype=bf16", "train.precision=bf16",
      "train.grad_dtype=bf16"};
  Sets twenty = common, ten = common;
  twenty.insert(twenty.end(), {"train.steps=20"});
  ten.insert(ten.end(), {"train.steps=10", "output_dir=halves"});
  const test::Expected expected = test::uninterrupted(run, twenty, 20);
  ASSERT_TRUE(test::ends_well(run.pretrain(ten)));
  twenty.push_back("output_dir=halves");
  const test::ProcessEnd end = run.pretrain(twenty);
  ASSERT_EQ(end.exit_code, 0) << end.err;
  EXPECT_THAT(end.err, HasSubstr("step 10 of 20"));
  test::expect_same(run, expected, 20, "halves");
}

class StopSignal : public testing::TestWithParam<int> {};

TEST_P(StopSignal, saves_stops_and_continues_with_the_same_bits) {
  const TinyRun run;
  const Sets sets = {"checkpoint.every=1000"};
  const test::Expected expected = test::uninterrupted(run, sets, 30);
  Sets stopped = sets;
  stopped.push_back("output_dir=stopped");
  const std::unique_ptr<test::Process> process = run.start(stopped);
  test::wait_for_step(*process, run.output("stopped"), 5);
  process->send(GetParam());
  const test::ProcessEnd end = process->wait();
  ASSERT_EQ(end.exit_code, 0) << end.err;
  const size_t done = test::metrics_of(run.output("stopped")).size();
  ASSERT_GE(done, 5U);
  ASSERT_LT(done, 30U) << "the signal came after the end";
  EXPECT_THAT(end.err, HasSubstr(fmt::format("stopped at step {}", done)));
  EXPECT_THAT(end.err, HasSubstr("the same command continues from here"));
  EXPECT_TRUE(
      std::filesystem::exists(run.checkpoint(static_cast<int64_t>(done), "stopped") / "model.safetensors"));
  const test::ProcessEnd rest = run.pretrain(stopped);
  ASSERT_EQ(rest.exit_code, 0) << rest.err;
  test::expect_same(run, expected, 30, "stopped");
}

INSTANTIATE_TEST_SUITE_P(Signals, StopSignal, testing::Values(SIGTERM, SIGINT), [](const auto& info) {
  return std::string(info.param == SIGTERM ? "SIGTERM" : "SIGINT");
});

// What bits depend on is remembered: another number of threads is said.
TEST(ResumeRuns, other_threads_warn) {
  const TinyRun run;
  ASSERT_TRUE(test::ends_well(run.pretrain({"train.steps=4", "train.threads=1"})));
  const test::ProcessEnd end = run.pretrain({"train.steps=6", "train.threads=2"});
  ASSERT_EQ(end.exit_code, 0) << end.err;
  EXPECT_THAT(end.err, HasSubstr("the number of threads was 1"));
}

}  // namespace
}  // namespace fathom

// As resume_test.cpp, with many more kills.
#include <gtest/gtest.h>

#include "e2e/kill_runs.h"

namespace fathom {
namespace {

class ManyKills : public testing::TestWithParam<const char*> {};

TEST_P(ManyKills, CK_1_fifty_kills_change_no_bit) {
  const test::TinyRun run;
  const test::Sets sets = {fmt::format("train.precision={}", GetParam()), "checkpoint.every=2",
                           "train.steps=120"};
  const test::Expected expected = test::uninterrupted(run, sets, 120);
  const int hits = test::kill_until_done(run, sets, "killed", 50, stream_key(50, GetParam()));
  EXPECT_GE(hits, 25);
  test::expect_same(run, expected, 120, "killed");
}

INSTANTIATE_TEST_SUITE_P(Precision, ManyKills, testing::Values("fp32", "bf16", "bf16_pure"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace fathom

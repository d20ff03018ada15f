// `fathom convert` as a user runs it, on checkpoints of tens of megabytes.
#include <gtest/gtest.h>

#include "e2e/convert_run.h"

namespace fathom {
namespace {

TEST(ConvertRun, WT_10_bounded_memory_and_a_kill_half_way_from_fp8) {
  test::convert_killed_half_way(30'000'000, true);
}

TEST(ConvertRun, WT_10_bounded_memory_and_a_kill_half_way_to_fp8) {
  test::convert_killed_half_way(60'000'000, false);
}

}  // namespace
}  // namespace fathom

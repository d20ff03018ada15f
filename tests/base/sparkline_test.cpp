#include "base/sparkline.h"

#include <gtest/gtest.h>

#include <limits>

namespace fathom {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

TEST(Sparkline, one_block_a_value_while_they_fit) {
  EXPECT_EQ(sparkline({0, 1, 2, 3, 4, 5, 6, 7}, 8), "▁▂▃▄▅▆▇█");
  EXPECT_EQ(sparkline({7, 0}, 8), "█▁");
}

TEST(Sparkline, means_where_they_do_not) {
  EXPECT_EQ(sparkline({8, 6, 0, 0}, 2), "█▁");
  EXPECT_EQ(sparkline({0, 0, 1, 3, 4, 4}, 3), "▁▅█");
}

TEST(Sparkline, trivial_and_odd_values) {
  EXPECT_EQ(sparkline({}, 10), "");
  EXPECT_EQ(sparkline({1, 2}, 0), "");
  EXPECT_EQ(sparkline({5}, 10), "▁");
  EXPECT_EQ(sparkline({5, 5, 5}, 10), "▁▁▁");
  EXPECT_EQ(sparkline({1, kNan, 2}, 10), "▁ █");
  EXPECT_EQ(sparkline({1, kInf, 2, kNan}, 2), "▁█");
  EXPECT_EQ(sparkline({kNan, kInf}, 10), "  ");
  EXPECT_EQ(sparkline({-1e308, 1e308}, 10), "▁█");
}

}  // namespace
}  // namespace fathom

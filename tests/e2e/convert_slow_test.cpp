// As convert_test.cpp, at the size of the field case: 12 GB of source, or FATHOM_CONVERT_GB of them.
#include <gtest/gtest.h>

#include <cstdlib>

#include "e2e/convert_run.h"

namespace fathom {
namespace {

uint64_t source_bytes() {
  const char* given = std::getenv("FATHOM_CONVERT_GB");
  return static_cast<uint64_t>((given ? std::atof(given) : 12.0) * 1e9);
}

TEST(ConvertSlow, WT_10_twelve_gigabytes_in_2_GiB_killed_half_way_to_fp8) {
  test::convert_killed_half_way(source_bytes(), false);
}

TEST(ConvertSlow, WT_10_twelve_gigabytes_in_2_GiB_killed_half_way_from_fp8) {
  test::convert_killed_half_way(source_bytes(), true);
}

}  // namespace
}  // namespace fathom

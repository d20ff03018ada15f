#include "base/float16.h"

#include <gtest/gtest.h>

#include <cmath>

namespace fathom {
namespace {

TEST(Float16, every_code_comes_back) {
  for (uint32_t code = 0; code < 0x10000; ++code) {
    const f16 half{static_cast<uint16_t>(code)};
    const float value = to_float(half);
    if (std::isnan(value)) {
      EXPECT_TRUE((code & 0x7fff) > 0x7c00) << code;
      EXPECT_TRUE(std::isnan(to_float(to_f16(value))));
    } else {
      EXPECT_EQ(to_f16(value).bits, code);
    }
  }
}

// Between two neighbours the nearer wins, and the even one at the midpoint.
TEST(Float16, rounds_to_nearest_even) {
  for (uint32_t code = 0; code < 0x7bff; ++code) {
    const float low = to_float(f16{static_cast<uint16_t>(code)});
    const float high = to_float(f16{static_cast<uint16_t>(code + 1)});
    const float middle = low + (high - low) / 2;
    EXPECT_EQ(to_f16(middle).bits, code % 2 == 0 ? code : code + 1);
    EXPECT_EQ(to_f16(std::nextafter(middle, low)).bits, code);
    EXPECT_EQ(to_f16(std::nextafter(middle, high)).bits, code + 1);
    EXPECT_EQ(to_f16(-middle).bits, 0x8000u | (code % 2 == 0 ? code : code + 1));
  }
  EXPECT_EQ(to_f16(65519.99f).bits, 0x7bffu);
  EXPECT_EQ(to_f16(65520).bits, 0x7c00u);
  EXPECT_EQ(to_f16(-INFINITY).bits, 0xfc00u);
}

}  // namespace
}  // namespace fathom

// e4m3 with a scale: every code and every rounding, the same bits from every body, nothing written outside.
#include "kernels/fp8.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <numeric>

#include "kernels/support.h"

namespace fathom::kernels::testing {
namespace {

const std::vector<int64_t> kCounts = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 127, 128, 131, 256};

std::vector<uint8_t> every_code() {
  std::vector<uint8_t> codes(256);
  std::iota(codes.begin(), codes.end(), uint8_t{0});
  return codes;
}

// The definition: nearest of the 127 magnitudes, the even code on a tie, 448 beyond them.
uint8_t nearest_code(float value) {
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return sign | 0x7f;
  const double magnitude = std::fabs(double(value));
  uint8_t best = 0;
  for (uint8_t code = 1; code < 0x7f; ++code) {
    const double here = std::fabs(magnitude - double(e4m3_value(code))),
                 there = std::fabs(magnitude - double(e4m3_value(best)));
    if (here < there || (here == there && code % 2 == 0)) best = code;
  }
  return sign | best;
}

TEST(Fp8, WT_1_dequantization_is_value_times_scale) {
  const std::vector<uint8_t> codes = every_code();
  for (const Isa set : all_sets()) {
    under(set, [&] {
      for (const float scale : {1.0f, 0.3f, 1e-5f, 0x1p-120f, 3e35f, 0.0f, -2.0f}) {
        for (const int64_t count : kCounts) {
          Guarded<float> wide(count, 1);
          Guarded<bf16> narrow(count, 3);
          const uint8_t* from = codes.data() + codes.size() - count;
          dequantize_fp8(from, scale, count, wide.data());
          dequantize_fp8(from, scale, count, narrow.data());
          EXPECT_TRUE(wide.is_intact() && narrow.is_intact());
          for (int64_t i = 0; i < count; ++i) {
            const float expected = static_cast<float>(double(e4m3_value(from[i])) * double(scale));
            ASSERT_EQ(std::bit_cast<uint32_t>(wide.data()[i]), std::bit_cast<uint32_t>(expected))
                << name(set) << " code " << int(from[i]) << " scale " << scale;
            ASSERT_EQ(narrow.data()[i].bits, to_bf16(expected).bits) << name(set) << " code " << int(from[i]);
          }
        }
      }
    });
  }
}

TEST(Fp8, quantization_is_to_the_nearest_code) {
  std::vector<float> values = {0.0f,   -0.0f,    448,       449, 464,    480,
                               -1e30f, INFINITY, -INFINITY, NAN, 1e-40f, 0x1p-10f};
  for (uint8_t code = 0; code < 0x7e; ++code) {  // the codes, the ties between them, and beside those
    const float low = e4m3_value(code), middle = (low + e4m3_value(code + 1)) / 2;
    for (const float x : {low, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) {
      values.push_back(x);
      values.push_back(-x);
    }
  }
  for (const float x : random_values<float>(1000, 5)) values.push_back(x);
  for (const Isa set : all_sets()) {
    under(set, [&] {
      for (const float scale : {1.0f, 0.37f}) {
        std::vector<uint8_t> codes(values.size());
        quantize_fp8(values.data(), scale, static_cast<int64_t>(values.size()), codes.data());
        for (size_t i = 0; i < values.size(); ++i)
          ASSERT_EQ(codes[i], nearest_code(values[i] / scale))
              << name(set) << " " << values[i] << " / " << scale;
      }
      for (const int64_t count : kCounts) {
        Guarded<uint8_t> codes(count, 1);
        quantize_fp8(values.data() + 1, 1, count, codes.data());
        EXPECT_TRUE(codes.is_intact()) << count;
      }
    });
  }
}

TEST(Fp8, every_code_comes_back) {
  const std::vector<uint8_t> codes = every_code();
  for (const Isa set : all_sets()) {
    under(set, [&] {
      for (const float scale : {1.0f, 0.0173f}) {
        std::vector<float> values(256);
        std::vector<uint8_t> back(256);
        dequantize_fp8(codes.data(), scale, 256, values.data());
        quantize_fp8(values.data(), scale, 256, back.data());
        EXPECT_EQ(back, codes) << name(set);
      }
    });
  }
}

TEST(Fp8, absolute_max_of_any_count) {
  for (const Isa set : all_sets()) {
    under(set, [&] {
      for (const int64_t count : kCounts) {
        Guarded<float> values(random_values<float>(count, 3), 1);
        float expected = 0;
        for (int64_t i = 0; i < count; ++i) expected = std::max(expected, std::fabs(values.data()[i]));
        EXPECT_EQ(absolute_max(values.data(), count), expected) << name(set) << " " << count;
        if (count == 0) continue;
        values.data()[count / 2] = -NAN;
        EXPECT_TRUE(std::isnan(absolute_max(values.data(), count)));
        values.data()[count / 2] = -INFINITY;
        EXPECT_EQ(absolute_max(values.data(), count), INFINITY);
      }
    });
  }
}

}  // namespace
}  // namespace fathom::kernels::testing

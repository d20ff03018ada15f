// Integer codes with a scale: the same bits from every body, nothing written outside, packing as compressed-tensors has it.
#include "kernels/int_codes.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <numeric>

#include "kernels/support.h"

namespace fathom::kernels::testing {
namespace {

const std::vector<int64_t> kCounts = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 127, 128, 131};

TEST(IntCodes, quantization_rounds_to_nearest_even_and_stays_in_range) {
  std::vector<float> values = {0.0f,    -0.0f, 0.5f,  1.5f,   2.5f,   -0.5f, -1.5f, 126.5f, 127.4f, 127.6f,
                               -127.6f, -128,  1e30f, -1e30f, 1e-42f, 7.5f,  -7.5f, -8.5f,  6.5f};
  for (const float x : random_values<float>(500, 3, 40)) values.push_back(x);
  for (const Isa set : all_sets()) {
    under(set, [&] {
      for (const float scale : {1.0f, 0.37f, 1e-3f}) {
        for (const int64_t count : kCounts) {
          const float* from = values.data() + values.size() - count;
          Guarded<int8_t> wide(count, 1), narrow(count, 3);
          quantize_int8(from, scale, count, wide.data());
          quantize_int4(from, scale, count, narrow.data());
          EXPECT_TRUE(wide.is_intact() && narrow.is_intact());
        }
        const auto count = static_cast<int64_t>(values.size());
        std::vector<int8_t> wide(values.size()), narrow(values.size());
        quantize_int8(values.data(), scale, count, wide.data());
        quantize_int4(values.data(), scale, count, narrow.data());
        for (size_t i = 0; i < values.size(); ++i) {
          const double nearest = std::nearbyint(double(values[i] / scale));
          ASSERT_EQ(wide[i], std::clamp(nearest, -127.0, 127.0)) << name(set) << " " << values[i];
          ASSERT_EQ(narrow[i], std::clamp(nearest, -8.0, 7.0)) << name(set) << " " << values[i];
        }
      }
    });
  }
}

TEST(IntCodes, dequantization_is_code_times_scale) {
  std::vector<int8_t> codes(256);
  std::iota(codes.begin(), codes.end(), int8_t{-128});
  for (const Isa set : all_sets()) {
    under(set, [&] {
      for (const float scale : {1.0f, 0.3f, 1e-5f, 0x1p-130f, 3e35f}) {
        for (const int64_t count : kCounts) {
          Guarded<float> wide(count, 1);
          Guarded<bf16> narrow(count, 3);
          const int8_t* from = codes.data() + 256 - count;
          dequantize_int(from, scale, count, wide.data());
          dequantize_int(from, scale, count, narrow.data());
          EXPECT_TRUE(wide.is_intact() && narrow.is_intact());
          for (int64_t i = 0; i < count; ++i) {
            const float expected = static_cast<float>(double(from[i]) * double(scale));
            ASSERT_EQ(std::bit_cast<uint32_t>(wide.data()[i]), std::bit_cast<uint32_t>(expected))
                << name(set);
            ASSERT_EQ(narrow.data()[i].bits, to_bf16(expected).bits) << name(set);
          }
        }
      }
    });
  }
}

TEST(IntCodes, error_sums_agree_with_the_reference) {
  const std::vector<float> values = random_values<float>(131, 7), decoded = random_values<float>(131, 8);
  for (const int64_t count : kCounts) {
    CodeError expected;
    under(Isa::reference, [&] { expected = code_error(values.data(), decoded.data(), count); });
    for (const Isa set : all_sets()) {
      under(set, [&] {
        const CodeError error = code_error(values.data(), decoded.data(), count);
        EXPECT_NEAR(error.squared_error, expected.squared_error, 1e-6 * expected.squared_error) << name(set);
        EXPECT_NEAR(error.squared_values, expected.squared_values, 1e-6 * expected.squared_values);
        EXPECT_NEAR(error.largest_error, expected.largest_error, 1e-6 * expected.largest_error);
      });
    }
  }
}

TEST(IntCodes, packing_puts_the_first_code_into_the_lowest_bits) {
  const int8_t codes[] = {-8, 7, 0, 1, -1, 2, -2, 3};
  uint32_t word = 0;
  pack_int4(codes, 8, reinterpret_cast<uint8_t*>(&word));
  uint32_t expected = 0;
  for (int i = 0; i < 8; ++i) expected |= static_cast<uint32_t>(codes[i] + 8) << 4 * i;
  EXPECT_EQ(word, expected);
}

TEST(IntCodes, packed_codes_come_back_from_any_place) {
  std::vector<int8_t> codes;
  for (int i = 0; i < 61; ++i) codes.push_back(static_cast<int8_t>(i * 7 % 16 - 8));
  for (const int64_t count : {0, 1, 2, 3, 60, 61}) {
    Guarded<uint8_t> packed((count + 1) / 2, 1);
    pack_int4(codes.data(), count, packed.data());
    EXPECT_TRUE(packed.is_intact());
    EXPECT_TRUE(count % 2 == 0 || packed.data()[count / 2] >> 4 == 0);
    for (int64_t begin = 0; begin <= count; ++begin) {
      Guarded<int8_t> back(count - begin, 1);
      unpack_int4(packed.data(), begin, count - begin, back.data());
      EXPECT_TRUE(back.is_intact());
      for (int64_t i = begin; i < count; ++i)
        ASSERT_EQ(back.data()[i - begin], codes[static_cast<size_t>(i)]);
    }
  }
}

}  // namespace
}  // namespace fathom::kernels::testing

// ggml's block codes against the gguf package (tests/formats/make_gguf_fixtures.py).
#include "kernels/ggml_blocks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "formats/gguf.h"

namespace fathom::kernels {
namespace {

constexpr int64_t kRow = 64;
constexpr int64_t kRowWithoutInverse = 4;  // its codes are undefined there: 1 / scale is infinite

struct Code {
  const char* name;
  int64_t block_bytes;
  bool (*quantize)(const float*, int64_t, uint8_t*);
  void (*dequantize)(const uint8_t*, int64_t, float*);
};
const Code kCodes[] = {{"Q8_0", kQ8_0Bytes, quantize_q8_0, dequantize_q8_0},
                       {"Q4_0", kQ4_0Bytes, quantize_q4_0, dequantize_q4_0}};

template <typename T>
std::vector<T> read(const formats::GgufFile& file, const std::string& name) {
  const auto bytes = file.bytes(file.at(name));
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

TEST(GgmlBlocks, codes_and_values_are_bit_equal_to_the_gguf_package) {
  const formats::GgufFile file(std::string(FATHOM_SOURCE_DIR) + "/tests/formats/data/blocks.gguf");
  const auto values = read<float>(file, "values");
  const auto count = static_cast<int64_t>(values.size());
  for (const Code& code : kCodes) {
    const auto expected = read<uint8_t>(file, code.name);
    const auto expected_values = read<float>(file, std::string(code.name) + ".values");
    std::vector<uint8_t> codes(expected.size());
    ASSERT_TRUE(code.quantize(values.data(), count, codes.data()));
    std::vector<float> back(values.size());
    code.dequantize(codes.data(), count, back.data());
    const int64_t row_bytes = kRow / kGgmlBlock * code.block_bytes;
    for (int64_t row = 0; row < count / kRow; ++row) {
      if (row == kRowWithoutInverse) {
        for (int64_t i = 0; i < kRow; ++i) EXPECT_EQ(back[static_cast<size_t>(row * kRow + i)], 0.0F);
        continue;
      }
      EXPECT_EQ(std::memcmp(codes.data() + row * row_bytes, expected.data() + row * row_bytes,
                            static_cast<size_t>(row_bytes)),
                0)
          << code.name << " row " << row;
      EXPECT_EQ(
          std::memcmp(back.data() + row * kRow, expected_values.data() + row * kRow, kRow * sizeof(float)), 0)
          << code.name << " row " << row;
    }
  }
}

TEST(GgmlBlocks, what_is_not_finite_or_too_large_is_told) {
  for (const Code& code : kCodes) {
    std::vector<uint8_t> codes(static_cast<size_t>(2 * code.block_bytes));
    EXPECT_TRUE(code.quantize(nullptr, 0, nullptr));
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(), 1e30F})
      for (const size_t at : {0, 31, 32, 63}) {
        std::vector<float> values(64, 1.0F);
        EXPECT_TRUE(code.quantize(values.data(), 64, codes.data()));
        values[at] = bad;
        EXPECT_FALSE(code.quantize(values.data(), 64, codes.data()))
            << code.name << " " << bad << " at " << at;
      }
  }
}

}  // namespace
}  // namespace fathom::kernels

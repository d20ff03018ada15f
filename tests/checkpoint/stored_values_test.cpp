// Stored values as float: every dtype that weights come in, fp8 blocks with ragged edges.
#include "checkpoint/stored_values.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "base/error.h"
#include "checkpoint/tensor_view.h"
#include "support/scratch.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

// "w" [2, 128] of all 256 codes, with one scale.
void write_every_code(const std::filesystem::path& path, float scale) {
  std::vector<uint8_t> codes(256);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i);
  formats::SafetensorsWriter writer(path,
                                    {{"w", Dtype::F8_E4M3, {2, 128}}, {"w_scale_inv", Dtype::F32, {1, 1}}});
  writer.write("w", bytes_of(codes));
  writer.write("w_scale_inv", bytes_of(std::vector<float>{scale}));
  writer.commit();
}

// Every one of the 256 codes, against the definition of e4m3 spelled out in powers of two.
TEST(StoredValues, WT_1_every_e4m3_code) {
  const test::ScratchDirectory scratch;
  write_every_code(scratch / "model.safetensors", 1);
  const formats::ShardedReader reader(scratch / "model.safetensors");
  std::vector<float> values(256);
  read_as_float(reader, "w", 0, 256, values.data());
  EXPECT_EQ(values[0x7e], 448);
  EXPECT_EQ(values[0x01], std::ldexp(1.0f, -9));
  EXPECT_EQ(values[0x08], std::ldexp(1.0f, -6)) << "the smallest normal";
  EXPECT_EQ(values[0x38], 1);
  EXPECT_TRUE(std::isnan(values[0x7f]) && std::isnan(values[0xff]));
  EXPECT_TRUE(values[0x80] == 0 && std::signbit(values[0x80]));
  for (size_t i = 1; i < 0x7f; ++i) {
    EXPECT_GT(values[i], values[i - 1]) << i;
    EXPECT_EQ(values[i | 0x80], -values[i]) << i;
  }
}

// Scaled in float, then to bfloat16 by the nearest of its neighbours, ties to the even one.
TEST(StoredValues, WT_1_every_e4m3_code_times_0_3_in_bfloat16) {
  const test::ScratchDirectory scratch;
  write_every_code(scratch / "model.safetensors", 0.3f);
  const auto reader = std::make_shared<const formats::ShardedReader>(scratch / "model.safetensors");
  std::vector<uint16_t> bits(256);
  stored_view(reader, "w").read(0, 256, Dtype::BF16, reinterpret_cast<std::byte*>(bits.data()));
  const auto value_of = [](uint16_t pattern) {
    const uint32_t wide = static_cast<uint32_t>(pattern) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return static_cast<double>(value);
  };
  for (size_t i = 0; i < 256; ++i) {
    const int exponent = static_cast<int>(i >> 3 & 15), fraction = static_cast<int>(i & 7);
    const double code = exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
    if ((i & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value_of(bits[i]))) << i;
      continue;
    }
    const double wanted = static_cast<float>(code * double(0.3f)), found = std::abs(value_of(bits[i]));
    EXPECT_EQ(bits[i] >> 15, i >> 7) << "the sign, of zero too";
    const double below = value_of(static_cast<uint16_t>((bits[i] & 0x7fff) - 1)),
                 above = value_of(static_cast<uint16_t>((bits[i] & 0x7fff) + 1));
    if (code == 0) {
      EXPECT_EQ(found, 0);
      continue;
    }
    EXPECT_LE(std::abs(found - wanted), std::abs(below - wanted)) << i;
    EXPECT_LE(std::abs(found - wanted), std::abs(above - wanted)) << i;
    if (std::abs(found - wanted) == std::abs(below - wanted) ||
        std::abs(found - wanted) == std::abs(above - wanted)) {
      EXPECT_EQ(bits[i] & 1, 0) << i;
    }
  }
}

TEST(StoredValues, any_part_of_ragged_blocks) {
  const test::ScratchDirectory scratch;
  const int64_t rows = 130, columns = 259;
  std::vector<uint8_t> codes(static_cast<size_t>(rows * columns), 0x38);  // 1.0
  const std::vector<float> scales = {1, 2, 3, 4, 5, 6};
  const std::vector<uint8_t> powers = {127, 128, 126, 129, 120, 127};  // 1, 2, 1/2, 4, 2^-7, 1
  formats::SafetensorsWriter writer(scratch / "model.safetensors", {{"f", Dtype::F8_E4M3, {rows, columns}},
                                                                    {"f_scale_inv", Dtype::F32, {2, 3}},
                                                                    {"p", Dtype::F8_E4M3, {rows, columns}},
                                                                    {"p_scale_inv", Dtype::F8_E8M0, {2, 3}}});
  writer.write("f", bytes_of(codes));
  writer.write("p", bytes_of(codes));
  writer.write("f_scale_inv", bytes_of(scales));
  writer.write("p_scale_inv", bytes_of(powers));
  writer.commit();
  const formats::ShardedReader reader(scratch / "model.safetensors");
  for (const int64_t begin : {int64_t{0}, int64_t{127}, columns, 127 * columns + 255, rows * columns}) {
    const int64_t count = std::min<int64_t>(3 * columns + 5, rows * columns - begin);
    std::vector<float> f(static_cast<size_t>(count)), p(static_cast<size_t>(count));
    read_as_float(reader, "f", begin, count, f.data());
    read_as_float(reader, "p", begin, count, p.data());
    for (int64_t i = 0; i < count; ++i) {
      const auto block = static_cast<size_t>((begin + i) / columns / 128 * 3 + (begin + i) % columns / 128);
      ASSERT_EQ(f[static_cast<size_t>(i)], scales[block]) << begin + i;
      ASSERT_EQ(p[static_cast<size_t>(i)], std::exp2(powers[block] - 127.0f)) << begin + i;
    }
  }
}

TEST(StoredValues, halves_and_what_is_no_weight) {
  const test::ScratchDirectory scratch;
  const std::vector<uint16_t> halves = {0x3c00, 0xc000, 0x0001, 0x8000, 0x7bff, 0x7c00, 0x7e00};
  formats::SafetensorsWriter writer(
      scratch / "model.safetensors",
      {{"h", Dtype::F16, {7}}, {"i", Dtype::I32, {1}}, {"q", Dtype::F8_E4M3, {1, 1}}});
  writer.write("h", bytes_of(halves));
  writer.write("i", bytes_of(std::vector<int32_t>{1}));
  writer.write("q", bytes_of(std::vector<uint8_t>{1}));
  writer.commit();
  const formats::ShardedReader reader(scratch / "model.safetensors");
  std::vector<float> values(7);
  read_as_float(reader, "h", 0, 7, values.data());
  EXPECT_EQ(values[0], 1);
  EXPECT_EQ(values[1], -2);
  EXPECT_EQ(values[2], std::ldexp(1.0f, -24));
  EXPECT_TRUE(values[3] == 0 && std::signbit(values[3]));
  EXPECT_EQ(values[4], 65504);
  EXPECT_TRUE(std::isinf(values[5]) && std::isnan(values[6]));
  EXPECT_THROW(read_as_float(reader, "i", 0, 1, values.data()), CheckpointError);
  EXPECT_THROW(read_as_float(reader, "q", 0, 1, values.data()), CheckpointError) << "no scale";
  EXPECT_THROW(read_as_float(reader, "none", 0, 1, values.data()), CheckpointError);
}

// A view gives stored bytes as they are, and other dtypes by rounding to nearest even.
TEST(TensorView, any_dtype_from_any_other) {
  const test::ScratchDirectory scratch;
  const std::vector<float> values = {1.00390625f, -65520, 1e-8f, 3};  // between two bf16; too large for half
  formats::SafetensorsWriter writer(scratch / "model.safetensors", {{"w", Dtype::F32, {2, 2}}});
  writer.write("w", bytes_of(values));
  writer.commit();
  const TensorView view =
      stored_view(std::make_shared<formats::ShardedReader>(scratch / "model.safetensors"), "w");
  EXPECT_EQ(view.dtype, Dtype::F32);
  EXPECT_EQ(view.numel(), 4);
  const auto read = [&](int64_t begin, int64_t count, Dtype as, auto element) {
    std::vector<decltype(element)> out(static_cast<size_t>(count));
    view.read(begin, count, as, reinterpret_cast<std::byte*>(out.data()));
    return out;
  };
  EXPECT_EQ(read(0, 4, Dtype::F32, 0.0f), values);
  EXPECT_EQ(read(1, 2, Dtype::F64, 0.0), (std::vector<double>{-65520, 1e-8f}));
  EXPECT_EQ(read(0, 2, Dtype::BF16, uint16_t{}), (std::vector<uint16_t>{0x3f80, 0xc780}));
  EXPECT_EQ(read(0, 4, Dtype::F16, uint16_t{}), (std::vector<uint16_t>{0x3c04, 0xfc00, 0, 0x4200}));
  EXPECT_THROW(read(0, 1, Dtype::I32, 0), std::logic_error);
  const SavedTensor tensor = saved(view, Dtype::BF16);
  EXPECT_EQ(tensor.bytes(), 8U);
}

}  // namespace
}  // namespace fathom::checkpoint

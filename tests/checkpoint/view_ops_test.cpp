// Views of views against the same done on whole arrays.
#include "checkpoint/view_ops.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "base/bfloat16.h"
#include "base/error.h"
#include "checkpoint/fp8_blocks.h"
#include "support/scratch.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using Values = std::vector<float>;

TensorView view_of(Values values, std::vector<int64_t> shape) {
  TensorView view;
  view.shape = std::move(shape);
  view.read = [values = std::make_shared<Values>(std::move(values))](int64_t begin, int64_t count, Dtype as,
                                                                     std::byte* out) {
    store_floats(values->data() + begin, count, as, out);
  };
  return view;
}

TensorView counting_view(int64_t rows, int64_t columns, int64_t first = 0) {
  Values values(static_cast<size_t>(rows * columns));
  std::iota(values.begin(), values.end(), static_cast<float>(first));
  return view_of(std::move(values), {rows, columns});
}

Values read(const TensorView& view, int64_t piece) {
  const int64_t numel = view.numel();
  Values values(static_cast<size_t>(numel));
  for (int64_t begin = 0; begin < numel; begin += piece)
    view.read(begin, std::min(piece, numel - begin), Dtype::F32,
              reinterpret_cast<std::byte*>(values.data() + begin));
  return values;
}

Values plain_transpose(const Values& in, int64_t rows, int64_t columns) {
  Values out(in.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c)
      out[static_cast<size_t>(c * rows + r)] = in[static_cast<size_t>(r * columns + c)];
  return out;
}

TEST(ViewOps, transposed_is_the_plain_one_in_pieces_of_any_size) {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{0, 5},
                                      {5, 0},
                                      {1, 1},
                                      {1, 9},
                                      {9, 1},
                                      {7, 13},
                                      {33, 65},
                                      {64, 32},
                                      {130, 31}}) {
    const TensorView matrix = counting_view(rows, columns);
    const Values expected = plain_transpose(read(matrix, 1000), rows, columns);
    const TensorView result = transposed(matrix);
    EXPECT_EQ(result.shape, (std::vector{columns, rows}));
    for (const int64_t piece : {1, 3, 32, 100, 1'000'000})
      EXPECT_EQ(read(result, piece), expected) << rows << " " << columns;
    EXPECT_EQ(read(transposed(result), 17), read(matrix, 1000)) << "twice";
  }
}

TEST(ViewOps, transposed_in_wider_panels_than_one) {
  const int64_t rows = 9000, columns = 700;  // panels of 116 columns
  const TensorView matrix = counting_view(rows, columns);
  const TensorView result = transposed(matrix);
  EXPECT_LE(result.granule, 1 << 20);
  EXPECT_EQ(result.granule % rows, 0);
  const Values expected = plain_transpose(read(matrix, rows * columns), rows, columns);
  EXPECT_EQ(read(result, result.granule), expected);
  EXPECT_EQ(read(result, 1'000'003), expected);
}

TEST(ViewOps, bfloat16_and_float64_move_whole_elements) {
  const TensorView result = transposed(counting_view(3, 5));
  std::vector<bf16> half(15);
  result.read(0, 15, Dtype::BF16, reinterpret_cast<std::byte*>(half.data()));
  std::vector<double> wide(15);
  result.read(0, 15, Dtype::F64, reinterpret_cast<std::byte*>(wide.data()));
  for (size_t i = 0; i < 15; ++i) {
    EXPECT_EQ(to_float(half[i]), static_cast<float>(i % 3 * 5 + i / 3));
    EXPECT_EQ(wide[i], static_cast<double>(i % 3 * 5 + i / 3));
  }
}

// What a stack of [gate and up transposed] becomes on its way into separate transposed stacks.
TEST(ViewOps, blocks_go_through_slices_and_rows_joined) {
  const Values gate = read(counting_view(6, 4), 100), up = read(counting_view(6, 4, 100), 100);
  const TensorView joined = concatenated({view_of(gate, {6, 4}), view_of(up, {6, 4})}, {12, 4});
  const TensorView there = transposed(joined);  // [4, 12]
  const TensorView back = transposed(there);
  EXPECT_EQ(read(slice(back, 0, {6, 4}), 5), gate);
  const TensorView lower = slice(back, 24, {6, 4});
  EXPECT_EQ(read(lower, 5), up);
  EXPECT_TRUE(lower.read_block) << "no element by element";
  EXPECT_EQ(read(transposed(lower), 7), plain_transpose(up, 6, 4));
  const TensorView mixed = concatenated({lower, slice(back, 0, {6, 4})}, {12, 4});
  Values block(static_cast<size_t>(4 * 2));
  read_block(mixed, {4, 4, 1, 2}, Dtype::F32, reinterpret_cast<std::byte*>(block.data()));
  EXPECT_EQ(block, (Values{117, 118, 121, 122, 1, 2, 5, 6}));
}

TEST(ViewOps, concatenated_takes_the_dtype_that_holds_all) {
  TensorView a = counting_view(2, 2), b = counting_view(0, 2), c = counting_view(1, 2);
  a.dtype = a.stored = Dtype::BF16;
  b.dtype = b.stored = Dtype::BF16;
  c.dtype = c.stored = Dtype::F16;
  EXPECT_EQ(concatenated({a, b}, {2, 2}).dtype, Dtype::BF16);
  const TensorView all = concatenated({a, b, c}, {3, 2});
  EXPECT_EQ(all.dtype, Dtype::F32);
  EXPECT_EQ(read(all, 1), (Values{0, 1, 2, 3, 0, 1}));
  EXPECT_THROW(concatenated({a, c}, {2, 2}), std::logic_error);
  EXPECT_THROW(slice(a, 1, {2, 2}), std::logic_error);
}

TEST(ViewOps, selected_rows_follow_the_order_whatever_the_piece) {
  const TensorView matrix = counting_view(7, 3);
  const std::vector<int64_t> order = {4, 5, 6, 0, 2, 1, 3, 3};
  const TensorView result = select_rows(matrix, order);
  Values expected;
  for (const int64_t row : order)
    for (int64_t c = 0; c < 3; ++c) expected.push_back(static_cast<float>(row * 3 + c));
  for (const int64_t piece : {1, 2, 3, 4, 7, 100}) EXPECT_EQ(read(result, piece), expected);
}

TEST(ViewOps, transposed_matrices_become_fp8_as_others_do) {
  std::mt19937 generator(5);
  std::normal_distribution<float> normal(0, 0.02F);
  Values values(300 * 150);
  for (float& value : values) value = normal(generator);
  TensorView plain = view_of(values, {300, 150});
  TensorView turned = transposed(view_of(plain_transpose(values, 300, 150), {150, 300}));
  EXPECT_GT(turned.granule, 1);
  plain.name = turned.name = "w";
  const auto a = quantized(plain, ScaleFormat::float32), b = quantized(turned, ScaleFormat::float32);
  for (size_t part = 0; part < 2; ++part) {
    const auto bytes = static_cast<size_t>(a[part].bytes());
    std::vector<std::byte> from_plain(bytes), from_turned(bytes);
    a[part].read(0, a[part].numel(), from_plain.data());
    b[part].read(0, b[part].numel(), from_turned.data());
    EXPECT_EQ(from_plain, from_turned);
  }
}

}  // namespace
}  // namespace fathom::checkpoint

#include "quantize/gptq.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "base/error.h"
#include "quantize/input_statistics.h"

namespace fathom::quantize {
namespace {

using Matrix = std::vector<std::vector<double>>;

at::Tensor random_matrix(int64_t rows, int64_t columns, uint64_t seed, bool correlated = false) {
  std::mt19937_64 draw(seed);
  std::normal_distribution<float> normal;
  at::Tensor result = at::zeros({rows, columns}, at::TensorOptions().dtype(at::kFloat));
  float* values = result.mutable_data_ptr<float>();
  for (int64_t r = 0; r < rows; ++r) {
    const float common = normal(draw);
    for (int64_t j = 0; j < columns; ++j)
      values[r * columns + j] = normal(draw) * (j % 7 == 3 ? 4.0f : 1.0f) + (correlated ? common : 0.0f);
  }
  return result;
}

// 7.5 in place of 7.3 would put the largest value of each group on the edge between two codes.
Grid int4_grid(int64_t group_size) {
  return {-8, 7, group_size, [](float largest) { return largest > 0 ? largest / 7.3f : 1.0f; }};
}

// Cholesky by definition; lower.
Matrix cholesky(const Matrix& a) {
  const size_t n = a.size();
  Matrix l(n, std::vector<double>(n, 0));
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j <= i; ++j) {
      double sum = a[i][j];
      for (size_t k = 0; k < j; ++k) sum -= l[i][k] * l[j][k];
      l[i][j] = i == j ? std::sqrt(sum) : sum / l[j][j];
    }
  return l;
}

Matrix inverse(const Matrix& a) {  // of a positive definite matrix, by Gauss and Jordan
  const size_t n = a.size();
  Matrix m = a, inv(n, std::vector<double>(n, 0));
  for (size_t i = 0; i < n; ++i) inv[i][i] = 1;
  for (size_t i = 0; i < n; ++i) {
    const double pivot = m[i][i];
    for (size_t j = 0; j < n; ++j) m[i][j] /= pivot, inv[i][j] /= pivot;
    for (size_t r = 0; r < n; ++r) {
      if (r == i) continue;
      const double factor = m[r][i];
      for (size_t j = 0; j < n; ++j) m[r][j] -= factor * m[i][j], inv[r][j] -= factor * inv[i][j];
    }
  }
  return inv;
}

// The algorithm as the paper writes it, without blocks: plain loops in double.
std::vector<int> reference(const at::Tensor& weight, const at::Tensor& hessian, const GptqOptions& options,
                           const Grid& grid) {
  const auto rows = static_cast<size_t>(weight.size(0)), n = static_cast<size_t>(weight.size(1));
  const auto group_size = static_cast<size_t>(grid.group_size);
  const float* w0 = weight.const_data_ptr<float>();
  const double* h0 = hessian.const_data_ptr<double>();
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  if (options.act_order)
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return h0[a * n + a] > h0[b * n + b]; });
  double mean = 0;
  for (size_t i = 0; i < n; ++i) mean += h0[i * n + i] / static_cast<double>(n);
  Matrix h(n, std::vector<double>(n));
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) h[i][j] = h0[order[i] * n + order[j]];
  for (size_t i = 0; i < n; ++i) h[i][i] = (h[i][i] == 0 ? 1 : h[i][i]) + options.damping * mean;
  const Matrix lower = cholesky(inverse(h));

  std::vector<int> codes(rows * n);
  for (size_t r = 0; r < rows; ++r) {
    std::vector<double> w(n);
    for (size_t i = 0; i < n; ++i) w[i] = w0[r * n + order[i]];
    std::vector<double> scales(static_cast<size_t>(grid.groups(weight.size(1))));
    const auto scale_of = [&](const auto& value, size_t begin) {
      double largest = 0;
      for (size_t i = begin; i < std::min(n, begin + group_size); ++i)
        largest = std::max(largest, std::abs(static_cast<double>(value(i))));
      return static_cast<double>(grid.scale_for(static_cast<float>(largest)));
    };
    if (options.act_order)
      for (size_t g = 0; g < scales.size(); ++g)
        scales[g] = scale_of([&](size_t i) { return w0[r * n + i]; }, g * group_size);
    for (size_t i = 0; i < n; ++i) {
      const size_t g = order[i] / group_size;
      if (!options.act_order && i % group_size == 0) scales[g] = scale_of([&](size_t j) { return w[j]; }, i);
      const double code = std::clamp(std::nearbyint(w[i] / scales[g]), static_cast<double>(grid.lowest),
                                     static_cast<double>(grid.highest));
      codes[r * n + order[i]] = static_cast<int>(code);
      const double error = (w[i] - code * scales[g]) / lower[i][i];
      for (size_t j = i + 1; j < n; ++j) w[j] -= error * lower[j][i];  // U = L^T
    }
  }
  return codes;
}

double output_error(const at::Tensor& x, const at::Tensor& w, const at::Tensor& q) {
  return (at::mm(x, (w - q).t())).to(at::kDouble).norm().item<double>();
}

struct Shape {
  int64_t rows, columns, group_size, tokens;
  bool act_order;
};

class GptqShapes : public testing::TestWithParam<Shape> {};

TEST_P(GptqShapes, fast_is_reference) {
  const Shape shape = GetParam();
  const at::Tensor w = random_matrix(shape.rows, shape.columns, 1),
                   x = random_matrix(shape.tokens, shape.columns, 2, true);
  at::Tensor hessian;
  add_to_hessian(hessian, x);
  const GptqOptions options{0.01, shape.act_order};
  const Grid grid = int4_grid(shape.group_size);
  const checkpoint::IntCodes fast = gptq(w, gptq_factor(hessian, options), options, grid);
  const std::vector<int> plain = reference(w, hessian, options, grid);
  ASSERT_EQ(fast.codes.size(), plain.size());
  // Float against double: a value at the edge between two codes may fall to the other side, and moves what follows it in
  // its row.
  size_t differing = 0;
  for (size_t i = 0; i < plain.size(); ++i) differing += fast.codes[i] != plain[i];
  EXPECT_LE(static_cast<double>(differing), 0.002 * static_cast<double>(plain.size()) + 0.5);
}

INSTANTIATE_TEST_SUITE_P(Awkward, GptqShapes,
                         testing::Values(Shape{0, 16, 8, 20, false}, Shape{1, 1, 128, 3, false},
                                         Shape{5, 7, 128, 40, false}, Shape{9, 130, 128, 300, false},
                                         Shape{16, 300, 128, 64, false}, Shape{7, 129, 32, 200, false},
                                         Shape{6, 260, 192, 300, false}, Shape{8, 200, 200, 500, false},
                                         Shape{11, 257, 64, 600, true}, Shape{3, 33, 5, 40, true}));

TEST(Gptq, loses_less_than_round_to_nearest) {
  const int64_t rows = 64, columns = 256;
  const at::Tensor w = random_matrix(rows, columns, 3), x = random_matrix(512, columns, 4, true);
  at::Tensor hessian;
  add_to_hessian(hessian, x);
  const Grid grid = int4_grid(128);
  const double nearest = output_error(x, w, decode(round_to_nearest(w, grid), columns, grid));
  for (const bool act_order : {false, true}) {
    const GptqOptions options{0.01, act_order};
    const double found =
        output_error(x, w, decode(gptq(w, gptq_factor(hessian, options), options, grid), columns, grid));
    EXPECT_LT(found, 0.9 * nearest) << "act_order " << act_order;
  }
}

TEST(Gptq, independent_inputs_give_round_to_nearest) {
  const at::Tensor w = random_matrix(12, 96, 5);
  at::Tensor hessian = at::zeros({96, 96}, at::TensorOptions().dtype(at::kDouble));
  hessian.diagonal().fill_(3);
  const Grid grid = int4_grid(32);
  EXPECT_EQ(gptq(w, gptq_factor(hessian, {}), {}, grid).codes, round_to_nearest(w, grid).codes);
}

TEST(Gptq, fewer_tokens_than_columns_and_dead_channels) {
  const at::Tensor w = random_matrix(4, 64, 6), x = random_matrix(3, 64, 7);
  x.narrow(1, 10, 5).zero_();
  at::Tensor hessian;
  add_to_hessian(hessian, x);
  const Grid grid = int4_grid(64);
  const checkpoint::IntCodes codes = gptq(w, gptq_factor(hessian, {}), {}, grid);
  EXPECT_TRUE(decode(codes, 64, grid).isfinite().all().item<bool>());
  hessian.zero_();  // no token at all
  EXPECT_EQ(gptq(w, gptq_factor(hessian, {}), {}, grid).codes, round_to_nearest(w, grid).codes);
}

TEST(Gptq, not_finite_is_an_error) {
  at::Tensor hessian = at::zeros({4, 4}, at::TensorOptions().dtype(at::kDouble));
  hessian.fill_(std::numeric_limits<double>::quiet_NaN());
  EXPECT_THROW(gptq_factor(hessian, {}), NumericError);
}

}  // namespace
}  // namespace fathom::quantize

#include "kernels/norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/support.h"

namespace fathom::kernels::testing {
namespace {

template <typename T>
struct Problem {
  Problem(int64_t rows, int64_t dim, int64_t stride, bool has_residual, int64_t shift = 0)
      : rows(rows),
        dim(dim),
        stride(stride),
        has_residual(has_residual),
        x(random_values<T>(rows * stride, 1), shift),
        residual(random_values<T>(rows * stride, 2), shift),
        weight(random_values<T>(dim, 3), shift),
        dy(random_values<T>(rows * dim, 4), shift),
        dresidual(random_values<T>(rows * dim, 5), shift),
        sum(rows * dim, shift),
        y(rows * dim, shift),
        dx(rows * stride, shift),
        rstd(rows),
        dweight(std::vector<float>(static_cast<std::size_t>(dim), 0.5f)) {}
  void forward() {
    RmsNormForwardParams p;
    p.dtype = dtype_of<T>();
    p.num_rows = rows, p.dim = dim, p.eps = 1e-6;
    p.x = x.data(), p.x_stride = stride;
    if (has_residual) p.residual = residual.data(), p.residual_stride = stride, p.sum = sum.data();
    p.weight = weight.data(), p.y = y.data(), p.rstd = rstd.data();
    rms_norm_forward(p);
  }
  void backward() {
    RmsNormBackwardParams p;
    p.dtype = dtype_of<T>();
    p.num_rows = rows, p.dim = dim;
    p.x = has_residual ? sum.data() : x.data(), p.x_stride = has_residual ? dim : stride;
    p.weight = weight.data(), p.rstd = rstd.data(), p.dy = dy.data();
    if (has_residual) p.dresidual = dresidual.data();
    p.dx = dx.data(), p.dx_stride = stride, p.dweight = dweight.data();
    rms_norm_backward(p);
  }
  bool is_intact() const {
    return sum.is_intact() && y.is_intact() && dx.is_intact() && rstd.is_intact() && dweight.is_intact();
  }
  int64_t rows, dim, stride;
  bool has_residual;
  Guarded<T> x, residual, weight, dy, dresidual, sum, y, dx;
  Guarded<float> rstd, dweight;
};

template <typename T>
void check() {
  for (Isa set : fast_sets()) {
    for (int64_t dim : {1, 7, 8, 9, 16, 17, 31, 33, 100, 256}) {
      for (int64_t rows : {0, 1, 3, 65, 130}) {
        for (bool has_residual : {false, true}) {
          SCOPED_TRACE(::testing::Message()
                       << name(set) << " dim " << dim << " rows " << rows << " residual " << has_residual);
          Problem<T> expected(rows, dim, dim + 3, has_residual), actual(rows, dim, dim + 3, has_residual, 1);
          under(Isa::reference, [&] {
            expected.forward();
            expected.backward();
          });
          under(set, [&] {
            actual.forward();
            actual.backward();
          });
          EXPECT_TRUE(actual.is_intact());
          // bf16: an fp32 difference may cross a rounding boundary of the normalised value and again of the
          // product.
          const double eps = sizeof(T) == 2 ? 4.1 * kEpsBf16 : 8 * kEpsF32;
          if (has_residual) {
            EXPECT_TRUE(same_bits(actual.sum.values(), expected.sum.values(), "sum"));
          }
          EXPECT_TRUE(close(actual.rstd.values(), expected.rstd.values(), Bound{6 * kEpsF32, 0, 1}, "rstd"));
          EXPECT_TRUE(close(actual.y.values(), expected.y.values(), Bound{eps, 0, 1}, "y"));
          EXPECT_TRUE(close(actual.dx.values(), expected.dx.values(),
                            Bound{eps, 60 * std::sqrt(dim) * kEpsF32 * 60, 1}, "dx"));
          EXPECT_TRUE(close(actual.dweight.values(), expected.dweight.values(),
                            Bound{4 * kEpsF32, 60 * std::sqrt(rows + 1.) * kEpsF32 * 20, 1}, "dweight"));
        }
      }
    }
  }
}

TEST(RmsNorm, agrees_with_the_reference) {
  check<float>();
  check<bf16>();
}

TEST(RmsNorm, the_normalised_value_is_rounded_before_the_weight) {
  // x = (1, 1.5), eps 0: rstd = 0.78446454; 1.5 * rstd = 1.1766968 -> bf16 1.1796875; times 1.0078125
  // = 1.18890... -> 1.1875. Without the first rounding 1.1766968 * 1.0078125 = 1.18589 -> 1.1875; with
  // weight 1.0234375: 1.20734 -> 1.2109375 against 1.2042755 -> 1.203125.
  const bf16 x[2] = {to_bf16(1.0f), to_bf16(1.5f)}, weight[2] = {to_bf16(1.0f), to_bf16(1.0234375f)};
  for (Isa set : all_sets()) {
    bf16 y[2];
    RmsNormForwardParams p;
    p.dtype = DType::bf16;
    p.num_rows = 1, p.dim = 2, p.eps = 0;
    p.x = x, p.x_stride = 2, p.weight = weight, p.y = y;
    under(set, [&] { rms_norm_forward(p); });
    EXPECT_EQ(to_float(y[1]), to_float(to_bf16(1.1796875f * 1.0234375f))) << name(set);
    EXPECT_NE(to_float(y[1]), to_float(to_bf16(1.1766968f * 1.0234375f))) << name(set);
  }
}

TEST(RmsNorm, dweight_for_any_number_of_threads) {
  const ThreadsRestored restored;
  for (Isa set : fast_sets()) {
    under(set, [&] {
      std::vector<float> first;
      for (int threads : {1, 3}) {
        set_num_threads(threads);
        Problem<float> p(517, 40, 40, false);
        p.forward();
        p.backward();
        if (first.empty()) first = p.dweight.values();
        EXPECT_TRUE(same_bits(p.dweight.values(), first));
      }
    });
  }
}

TEST(RmsNorm, backward_is_the_derivative) {
  const int64_t rows = 3, dim = 5;
  std::vector<double> x = random_values<double>(rows * dim, 1, 1, 0),
                      weight = random_values<double>(dim, 2, 1, 0);
  const std::vector<double> dy = random_values<double>(rows * dim, 3, 1, 0);
  std::vector<double> dx(x.size()), dweight(weight.size());
  std::vector<float> rstd(rows);
  const auto loss = [&] {
    std::vector<double> y(x.size());
    RmsNormForwardParams p;
    p.dtype = DType::f64;
    p.num_rows = rows, p.dim = dim, p.eps = 1e-3;
    p.x = x.data(), p.x_stride = dim, p.weight = weight.data(), p.y = y.data(), p.rstd = rstd.data();
    rms_norm_forward(p);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
    return sum;
  };
  loss();
  RmsNormBackwardParams p;
  p.dtype = DType::f64;
  p.num_rows = rows, p.dim = dim;
  p.x = x.data(), p.x_stride = dim, p.weight = weight.data(), p.rstd = rstd.data(), p.dy = dy.data();
  p.dx = dx.data(), p.dx_stride = dim, p.dweight = dweight.data();
  rms_norm_backward(p);
  for (std::size_t i = 0; i < x.size(); ++i)
    EXPECT_NEAR(dx[i], derivative(x[i], loss), 1e-6 * (1 + std::abs(dx[i])));
  for (std::size_t i = 0; i < weight.size(); ++i)
    EXPECT_NEAR(dweight[i], derivative(weight[i], loss), 1e-6 * (1 + std::abs(dweight[i])));
}

}  // namespace
}  // namespace fathom::kernels::testing

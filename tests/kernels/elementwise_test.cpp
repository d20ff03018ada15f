#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "kernels/dispatch.h"
#include "kernels/support.h"

namespace fathom::kernels::testing {
namespace {

TEST(Elementwise, every_bf16_widens_and_narrows_to_itself) {
  std::vector<bf16> all(65536);
  for (uint32_t u = 0; u < 65536; ++u) all[u].bits = static_cast<uint16_t>(u);
  for (Isa set : fast_sets()) {
    under(set, [&] {
      std::vector<float> wide(all.size());
      std::vector<bf16> back(all.size());
      convert(all.data(), wide.data(), 65536);
      convert(wide.data(), back.data(), 65536);
      for (std::size_t u = 0; u < all.size(); ++u) {
        EXPECT_EQ(std::bit_cast<uint32_t>(wide[u]), static_cast<uint32_t>(u) << 16);
        EXPECT_EQ(back[u].bits, to_bf16(wide[u]).bits);  // NaN becomes quiet
      }
    });
  }
}

TEST(Elementwise, narrowing_is_to_nearest_even) {
  std::vector<float> x = random_values<float>(999, 1);
  for (uint32_t u : {0x3f808000u, 0x3f818000u, 0x3f80ffffu, 0x00008000u, 0x00018000u, 0x80000001u,
                     0x7f7fffffu, 0x7f800000u, 0x7f800001u, 0xffc00000u})
    x.push_back(std::bit_cast<float>(u));
  for (Isa set : fast_sets()) {
    for (int64_t count :
         {int64_t(0), int64_t(1), int64_t(7), int64_t(9), int64_t(15), int64_t(17), int64_t(x.size())}) {
      under(set, [&] {
        Guarded<bf16> y(count, 3);
        convert(x.data() + x.size() - count, y.data(), count);
        EXPECT_TRUE(y.is_intact());
        for (int64_t i = 0; i < count; ++i)
          EXPECT_EQ(y.data()[i].bits, to_bf16(x[x.size() - count + i]).bits);
      });
    }
  }
}

// The exponential inside SwiGLU, the router and the loss: 1.5 ulp over its range, against the double
// function.
TEST(Elementwise, exponential_over_its_range) {
  std::vector<float> x = {0,   -0.0f,     1e-40f,   -1e-40f, INFINITY, -INFINITY,
                          NAN, 88.72283f, 88.7229f, 3e38f,   -3e38f};
  for (double z = -104; z < 89; z += 0.00137) x.push_back(static_cast<float>(z));
  const int64_t count = static_cast<int64_t>(x.size());
  for (Isa set : fast_sets()) {
    std::vector<float> y(x.size());
    (set == Isa::avx2 ? avx2::exp_range : avx512::exp_range)(x.data(), y.data(), count);
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double exact = std::exp(double(x[i]));
      const float nearest = static_cast<float>(exact);
      if (!std::isfinite(nearest) || nearest == 0) {
        EXPECT_TRUE(std::isnan(nearest) ? std::isnan(y[i])
                                        : y[i] == nearest || (nearest == 0 && y[i] < 3e-45))
            << x[i] << " " << y[i];
      } else if (nearest < 0x1p-126f) {
        EXPECT_NEAR(y[i], exact, 0x1p-148);  // denormal: by their spacing
      } else {
        worst = std::max(worst, std::abs(y[i] - exact) / std::exp2(std::floor(std::log2(exact)) - 23));
      }
    }
    EXPECT_LT(worst, 1.5) << name(set);
    if (std::getenv("FATHOM_TEST_REPORT")) std::printf("  exp, %s: %.2f ulp\n", name(set), worst);
  }
}

template <typename Sum, typename T>
void check_accumulate() {
  for (Isa set : fast_sets()) {
    for (int64_t count : {0, 1, 7, 8, 9, 15, 16, 17, 40}) {
      const std::vector<Sum> start = random_values<Sum>(count, 1);
      const std::vector<T> x = random_values<T>(count, 2);
      Guarded<Sum> sum(start, 1);
      Guarded<T> input(x, 2);
      std::vector<double> expected;
      for (int64_t i = 0; i < count; ++i) expected.push_back(as_double(start[i]) + as_double(x[i]));
      under(set, [&] { accumulate(sum.data(), input.data(), count); });
      EXPECT_TRUE(
          close(sum.values(), expected, {sizeof(Sum) == 2 ? kEpsBf16 * 1.01 : kEpsF32, 0, 1}, name(set)));
      EXPECT_TRUE(sum.is_intact());
    }
  }
}

TEST(Elementwise, accumulate) {
  check_accumulate<float, float>();
  check_accumulate<float, bf16>();
  check_accumulate<bf16, float>();
  check_accumulate<bf16, bf16>();
}

TEST(Elementwise, embedding_gradient_of_repeated_tokens) {
  const ThreadsRestored restored;
  const int64_t dim = 197, rows = 5;
  const std::vector<int64_t> ids = {3, 0, 3, -1, 3, 4};
  const std::vector<bf16> dx = random_values<bf16>(6 * dim, 1);
  const std::vector<float> start = random_values<float>(rows * dim, 2);
  std::vector<double> expected(start.begin(), start.end());
  for (int64_t t = 0; t < 6; ++t)
    for (int64_t i = 0; i < dim && ids[t] >= 0; ++i) expected[ids[t] * dim + i] += as_double(dx[t * dim + i]);
  for (Isa set : fast_sets()) {
    under(set, [&] {
      std::vector<float> first;
      for (int threads : {1, 3}) {
        set_num_threads(threads);
        Guarded<float> grad(start);
        embedding_grad({DType::bf16, DType::f32, 6, dim, rows, ids.data(), dx.data(), grad.data()});
        EXPECT_TRUE(grad.is_intact());
        EXPECT_TRUE(close(grad.values(), expected, {4 * kEpsF32, 64 * kEpsF32, 1}, name(set)));
        if (first.empty()) first = grad.values();
        EXPECT_TRUE(same_bits(grad.values(), first));
      }
      embedding_grad({DType::bf16, DType::f32, 0, dim, rows, nullptr, nullptr, nullptr});
    });
  }
}

}  // namespace
}  // namespace fathom::kernels::testing

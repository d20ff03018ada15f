// RoPE and SwiGLU.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/rope.h"
#include "kernels/support.h"
#include "kernels/swiglu.h"

namespace fathom::kernels::testing {
namespace {

struct Tables {
  explicit Tables(int64_t positions, int64_t dim) {
    for (int64_t p = 0; p < positions; ++p)
      for (int64_t i = 0; i < dim / 2; ++i) {
        const double angle = double(p) * std::pow(10000.0, -2.0 * double(i) / double(dim));
        cos.push_back(static_cast<float>(std::cos(angle)));
        sin.push_back(static_cast<float>(std::sin(angle)));
      }
  }
  std::vector<float> cos, sin;
};

template <typename T>
void check_rope() {
  for (Isa set : fast_sets()) {
    for (int64_t dim : {2, 6, 8, 14, 16, 18, 32, 64}) {
      for (int64_t tokens : {0, 1, 5}) {
        for (bool inverse : {false, true}) {
          SCOPED_TRACE(::testing::Message() << name(set) << " dim " << dim << " tokens " << tokens);
          const Tables tables(40, dim);
          const std::vector<int32_t> positions = {3, 0, 39, 7, 7};
          const int64_t head_stride = dim + 5, token_stride = 3 * head_stride + 1;
          Guarded<T> x(random_values<T>(tokens * token_stride, 1), 1), y(tokens * token_stride, 1);
          RopeParams p;
          p.dtype = dtype_of<T>();
          p.num_tokens = tokens, p.num_heads = 3, p.rope_dim = dim;
          p.x = x.data(), p.x_token_stride = token_stride, p.x_head_stride = head_stride;
          p.y = y.data(), p.y_token_stride = token_stride, p.y_head_stride = head_stride;
          p.cos = tables.cos.data(), p.sin = tables.sin.data(), p.position_ids = positions.data(),
          p.inverse = inverse;
          under(Isa::reference, [&] { rope(p); });
          const std::vector<T> expected = y.values();
          under(set, [&] { rope(p); });
          // A sum of two products may cancel: absolute, by the largest value (outliers included).
          EXPECT_TRUE(close(y.values(), expected, Bound{2.01 * eps_of<T>(), 3 * kEpsF32 * 80, 1}, "rope"));
          EXPECT_TRUE(y.is_intact());
          p.y = x.data();  // in place
          under(set, [&] { rope(p); });
          for (int64_t t = 0; t < tokens; ++t)
            for (int64_t i = 0; i < dim; ++i)
              EXPECT_EQ(as_double(x.data()[t * token_stride + i]), as_double(y.data()[t * token_stride + i]));
          EXPECT_TRUE(x.is_intact());
        }
      }
    }
  }
}

TEST(Rope, agrees_with_the_reference) {
  check_rope<float>();
  check_rope<bf16>();
}

TEST(Rope, quarter_turn_and_back) {
  // By 90 degrees the pair (a, b) becomes (-b, a); the inverse undoes it.
  const std::vector<float> cos = {0, 1}, sin = {1, 0}, x = {2, 3, 5, 7};
  for (Isa set : all_sets()) {
    std::vector<float> y(4), back(4);
    RopeParams p;
    p.num_tokens = 1, p.num_heads = 1, p.rope_dim = 4;
    p.x = x.data(), p.y = y.data(), p.cos = cos.data(), p.sin = sin.data();
    under(set, [&] {
      rope(p);
      p.x = y.data(), p.y = back.data(), p.inverse = true;
      rope(p);
    });
    EXPECT_TRUE(same_bits(y, {-3, 2, 5, 7}));
    EXPECT_TRUE(same_bits(back, x));
  }
}

template <typename T>
void check_swiglu() {
  for (Isa set : fast_sets()) {
    for (int64_t dim : {0, 1, 7, 8, 9, 15, 16, 17, 33, 64}) {
      for (int64_t rows : {0, 1, 3}) {
        SCOPED_TRACE(::testing::Message() << name(set) << " dim " << dim << " rows " << rows);
        Guarded<T> gate_up(random_values<T>(rows * 2 * dim, 1, 3), 1), da(random_values<T>(rows * dim, 2), 1);
        Guarded<T> a(rows * dim, 1), again(rows * dim, 1), dgate_up(rows * 2 * dim, 1);
        const SwigluForwardParams forward{dtype_of<T>(), rows, dim, gate_up.data(), a.data()};
        const SwigluBackwardParams backward{dtype_of<T>(),   rows,        dim, gate_up.data(), da.data(),
                                            dgate_up.data(), again.data()};
        under(Isa::reference, [&] {
          swiglu_forward(forward);
          swiglu_backward(backward);
        });
        const std::vector<T> expected_a = a.values(), expected_d = dgate_up.values();
        under(set, [&] {
          swiglu_forward(forward);
          swiglu_backward(backward);
        });
        const double eps = 2.01 * eps_of<T>() + 8 * kEpsF32;
        EXPECT_TRUE(close(a.values(), expected_a, Bound{eps, 1e-30, 1}, "activation"));
        // 1 + g (1 - s) cancels near g = -1.28.
        EXPECT_TRUE(close(dgate_up.values(), expected_d, Bound{eps, 8 * kEpsF32 * 200, 1}, "dgate_up"));
        EXPECT_TRUE(same_bits(again.values(), a.values(), "activation again"));
        EXPECT_TRUE(a.is_intact() && again.is_intact() && dgate_up.is_intact());
      }
    }
  }
}

TEST(Swiglu, agrees_with_the_reference) {
  check_swiglu<float>();
  check_swiglu<bf16>();
}

TEST(Swiglu, extreme_gates) {
  for (Isa set : fast_sets()) {
    const std::vector<float> gate_up = {-INFINITY, -200, -104, 0, 88, 200, NAN, 1, 1, 1, 1, 1, 1, 1};
    std::vector<float> a(7);
    under(set, [&] { swiglu_forward({DType::f32, 1, 7, gate_up.data(), a.data()}); });
    EXPECT_TRUE(std::isnan(a[0]));  // -inf * 0, as in torch
    EXPECT_EQ(a[1], -0.0f);
    EXPECT_NEAR(a[2], 0, 1e-40);
    EXPECT_EQ(a[3], 0);
    EXPECT_EQ(a[4], 88);
    EXPECT_EQ(a[5], 200);
    EXPECT_TRUE(std::isnan(a[6]));
  }
}

TEST(Swiglu, backward_is_the_derivative) {
  std::vector<double> gate_up = random_values<double>(8, 1, 1, 0);
  const std::vector<double> da = random_values<double>(4, 2, 1, 0);
  std::vector<double> dgate_up(8), a(4);
  swiglu_backward({DType::f64, 1, 4, gate_up.data(), da.data(), dgate_up.data(), nullptr});
  const auto loss = [&] {
    swiglu_forward({DType::f64, 1, 4, gate_up.data(), a.data()});
    double sum = 0;
    for (std::size_t j = 0; j < 4; ++j) sum += a[j] * da[j];
    return sum;
  };
  for (std::size_t i = 0; i < 8; ++i) EXPECT_NEAR(dgate_up[i], derivative(gate_up[i], loss), 1e-8);
}

}  // namespace
}  // namespace fathom::kernels::testing

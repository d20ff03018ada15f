#include "kernels/adamw.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/support.h"

namespace fathom::kernels::testing {
namespace {

constexpr int64_t kSizes[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 100, 1000};

template <typename Param, typename Grad, typename State>
struct Range {
  explicit Range(int64_t count, int64_t shift = 0)
      : param(random_values<Param>(count, 1), shift),
        low(random_low(count), shift),
        grad(random_values<Grad>(count, 3), shift),
        m(random_values<State>(count, 4, 0.1), shift),
        v(squares(random_values<State>(count, 5, 0.1)), shift),
        count(count) {}
  static std::vector<uint16_t> random_low(int64_t count) {
    std::vector<uint16_t> low(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < low.size(); ++i) low[i] = static_cast<uint16_t>(i * 40503u);
    return low;
  }
  static std::vector<State> squares(std::vector<State> x) {
    for (State& value : x) value = from_double<State>(std::pow(as_double(value), 2));
    return x;
  }
  AdamWParams params(ParameterForm form) {
    AdamWParams p;
    p.form = form;
    p.grad_type = dtype_of<Grad>();
    p.state_type = dtype_of<State>();
    p.count = count;
    p.param = param.data();
    p.param_low = form == ParameterForm::split ? low.data() : nullptr;
    p.grad = grad.data();
    p.exp_avg = m.data();
    p.exp_avg_sq = v.data();
    p.lr = 0.01, p.weight_decay = 0.1, p.step = 3, p.grad_scale = 0.7, p.zero_grad = true;
    return p;
  }
  bool is_intact() const {
    return param.is_intact() && low.is_intact() && grad.is_intact() && m.is_intact() && v.is_intact();
  }
  Guarded<Param> param;
  Guarded<uint16_t> low;
  Guarded<Grad> grad;
  Guarded<State> m, v;
  int64_t count;
};

// A step changes the parameter by about lr; its error is that of a handful of fp32 operations, or one bf16
// rounding.
template <typename Param, typename Grad, typename State>
void check(ParameterForm form) {
  for (Isa set : fast_sets()) {
    for (int64_t count : kSizes) {
      for (int64_t shift : {0, 1, 3}) {
        SCOPED_TRACE(::testing::Message()
                     << name(set) << " form " << int(form) << " count " << count << " shift " << shift);
        Range<Param, Grad, State> expected(count), actual(count, shift);
        under(Isa::reference, [&] { adamw(expected.params(form)); });
        under(set, [&] { adamw(actual.params(form)); });
        EXPECT_TRUE(actual.is_intact());
        const double eps = sizeof(Param) == 2 && form != ParameterForm::split ? 2 * kEpsBf16 : 4 * kEpsF32;
        const double state_eps = sizeof(State) == 2 ? 2 * kEpsBf16 : 4 * kEpsF32;
        if (form == ParameterForm::split) {
          std::vector<float> a(static_cast<std::size_t>(count)), e(a.size());
          merge_masters(reinterpret_cast<bf16*>(actual.param.data()), actual.low.data(), a.data(), count);
          merge_masters(reinterpret_cast<bf16*>(expected.param.data()), expected.low.data(), e.data(), count);
          EXPECT_TRUE(close(a, e, Bound{eps, 16 * kEpsF32 * 0.1, 1}, "master"));
        } else {
          EXPECT_TRUE(close(actual.param.values(), expected.param.values(), Bound{eps, 16 * kEpsF32 * 0.1, 1},
                            "param"));
        }
        EXPECT_TRUE(close(actual.m.values(), expected.m.values(), Bound{state_eps, 8 * kEpsF32, 1}, "m"));
        EXPECT_TRUE(close(actual.v.values(), expected.v.values(), Bound{state_eps, 0, 1}, "v"));
        for (const Grad& g : actual.grad.values()) EXPECT_EQ(as_double(g), 0);
      }
    }
  }
}

TEST(AdamW, agrees_with_the_reference) {
  check<float, float, float>(ParameterForm::f32);
  check<float, bf16, bf16>(ParameterForm::f32);
  check<bf16, float, float>(ParameterForm::split);
  check<bf16, bf16, float>(ParameterForm::split);
  check<bf16, bf16, bf16>(ParameterForm::bf16_pure);
}

TEST(AdamW, three_steps_of_torch) {
  // torch.optim.AdamW([1.0, -2.0, 0.5], lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01) in float64,
  // gradients [0.1, -0.3, 0.0], [0.2, 0.1, -0.5], [-0.4, 0.2, 0.3] (torch 2.15.0).
  double param[3] = {1.0, -2.0, 0.5}, m[3] = {}, v[3] = {};
  const double grads[3][3] = {{0.1, -0.3, 0.0}, {0.2, 0.1, -0.5}, {-0.4, 0.2, 0.3}};
  for (int step = 1; step <= 3; ++step) {
    double grad[3] = {grads[step - 1][0], grads[step - 1][1], grads[step - 1][2]};
    AdamWParams p;
    p.form = ParameterForm::f64;
    p.grad_type = p.state_type = DType::f64;
    p.count = 3;
    p.param = param, p.grad = grad, p.exp_avg = m, p.exp_avg_sq = v;
    p.lr = 0.1, p.beta1 = 0.9, p.beta2 = 0.95, p.eps = 1e-8, p.weight_decay = 0.01, p.step = step;
    adamw(p);
  }
  EXPECT_NEAR(param[0], 0.8205392489091548, 1e-12);
  EXPECT_NEAR(param[1], -1.8619171004321176, 1e-12);
  EXPECT_NEAR(param[2], 0.5882593774701501, 1e-12);
}

TEST(AdamW, split_masters_are_exact) {
  std::vector<float> masters = random_values<float>(997, 1);
  for (uint32_t u : {0u, 0x80000000u, 1u, 0x00007fffu, 0x00008000u, 0x3f7fffffu, 0x3f808000u, 0xbf808000u,
                     0xbf807fffu, 0x7f7f7fffu, 0x7f800000u, 0xff800000u, 0x7f7fffffu})
    masters.push_back(std::bit_cast<float>(u));
  const int64_t count = static_cast<int64_t>(masters.size());
  for (Isa set : all_sets()) {
    under(set, [&] {
      Guarded<bf16> hi(count, 1);
      Guarded<uint16_t> lo(count, 3);
      Guarded<float> back(count, 1);
      split_masters(masters.data(), hi.data(), lo.data(), count);
      merge_masters(hi.data(), lo.data(), back.data(), count);
      EXPECT_TRUE(same_bits(back.values(), masters, name(set)));
      EXPECT_TRUE(hi.is_intact() && lo.is_intact() && back.is_intact());
      for (int64_t i = 0; i < 997; ++i)  // the working weight is the nearest bf16
        EXPECT_LE(std::abs(to_float(hi.data()[i]) - masters[i]),
                  std::abs(to_float(to_bf16(masters[i])) - masters[i]));
    });
  }
}

TEST(AdamW, sum_of_squares_for_any_number_of_threads) {
  const ThreadsRestored restored;
  const int64_t count = 3 * 65536 + 77;
  const std::vector<float> x = random_values<float>(count, 1);
  const std::vector<bf16> y = random_values<bf16>(count, 2);
  double exact = 0;
  for (float value : x) exact += double(value) * value;
  for (Isa set : all_sets()) {
    under(set, [&] {
      set_num_threads(1);
      const SquareSum one = sum_of_squares(DType::f32, x.data(), count),
                      one_bf16 = sum_of_squares(DType::bf16, y.data(), count);
      set_num_threads(3);
      EXPECT_EQ(sum_of_squares(DType::f32, x.data(), count).sum, one.sum);
      EXPECT_EQ(sum_of_squares(DType::bf16, y.data(), count).sum, one_bf16.sum);
      EXPECT_NEAR(one.sum, exact, 1e-12 * exact);
      EXPECT_FALSE(one.has_nonfinite);
      for (float bad : {INFINITY, -INFINITY, NAN}) {
        std::vector<float> z = x;
        z.back() = bad;
        EXPECT_TRUE(sum_of_squares(DType::f32, z.data(), count).has_nonfinite) << name(set);
      }
      std::vector<float> huge(5, std::numeric_limits<float>::max());
      EXPECT_FALSE(sum_of_squares(DType::f32, huge.data(), 5).has_nonfinite);
      EXPECT_EQ(sum_of_squares(DType::f32, nullptr, 0).sum, 0);
    });
  }
}

}  // namespace
}  // namespace fathom::kernels::testing

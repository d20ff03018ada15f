#include "kernels/cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/support.h"

namespace fathom::kernels::testing {
namespace {

template <typename T, typename Grad>
void check() {
  for (Isa set : fast_sets()) {
    for (int64_t vocab : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 1000, 20011}) {
      for (int64_t rows : {0, 1, 5}) {
        SCOPED_TRACE(::testing::Message() << name(set) << " vocab " << vocab << " rows " << rows);
        const int64_t stride = vocab + 3;
        Guarded<T> logits(random_values<T>(rows * stride, 1, 2), 1);
        Guarded<Grad> grad(rows * stride, 1);
        std::vector<int64_t> targets;
        for (int64_t r = 0; r < rows; ++r) targets.push_back(r == 2 ? -100 : r * 7919 % vocab);
        Guarded<float> nll(rows), lse(rows);
        CrossEntropyParams p;
        p.dtype = dtype_of<T>(), p.grad_type = dtype_of<Grad>();
        p.num_rows = rows, p.vocab_size = vocab;
        p.logits = logits.data(), p.logits_stride = stride, p.targets = targets.data();
        p.coefficient = 0.25, p.z_loss = 1e-3;
        p.nll = nll.data(), p.lse = lse.data(), p.dlogits = grad.data(), p.dlogits_stride = stride;
        under(Isa::reference, [&] { cross_entropy(p); });
        const std::vector<float> expected_nll = nll.values(), expected_lse = lse.values();
        const std::vector<Grad> expected_grad = grad.values();
        under(set, [&] { cross_entropy(p); });
        EXPECT_TRUE(grad.is_intact() && nll.is_intact() && lse.is_intact());
        const double sums = 4 + std::sqrt(double(vocab));
        EXPECT_TRUE(close(nll.values(), expected_nll, Bound{2 * kEpsF32, kEpsF32 * (sums + 60), 1}, "nll"));
        EXPECT_TRUE(close(lse.values(), expected_lse, Bound{2 * kEpsF32, kEpsF32 * sums, 1}, "lse"));
        // An argument z - max of size up to 120 in fp32: 60 eps of the exponential.
        EXPECT_TRUE(
            close(grad.values(), expected_grad,
                  Bound{(sizeof(Grad) == 2 ? 2.01 * kEpsBf16 : 0) + kEpsF32 * (sums + 120), kEpsF32, 1},
                  "dlogits"));
        if constexpr (sizeof(T) >= sizeof(Grad)) {  // in place: row starts coincide, also for bf16 over fp32
          const std::vector<Grad> apart = grad.values();
          p.dlogits = logits.data();
          p.dlogits_stride = stride * static_cast<int64_t>(sizeof(T) / sizeof(Grad));
          under(set, [&] { cross_entropy(p); });
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t i = 0; i < vocab; ++i) {
              Grad value;
              std::memcpy(&value, reinterpret_cast<Grad*>(logits.data()) + r * p.dlogits_stride + i,
                          sizeof(Grad));
              ASSERT_EQ(as_double(value), as_double(apart[r * stride + i])) << i;
            }
          EXPECT_TRUE(logits.is_intact());
        }
      }
    }
  }
}

TEST(CrossEntropy, agrees_with_the_reference) {
  check<float, float>();
  check<float, bf16>();
  check<bf16, float>();
  check<bf16, bf16>();
}

TEST(CrossEntropy, ignored_rows_are_exactly_zero_and_NaN_shows) {
  for (Isa set : all_sets()) {
    std::vector<float> logits(3 * 20, 1.0f), grad(3 * 20, -1.0f), nll(3, -1.0f);
    logits[20 + 3] = NAN;
    const std::vector<int64_t> targets = {-100, 5, 6};
    CrossEntropyParams p;
    p.num_rows = 3, p.vocab_size = 20, p.logits = logits.data(), p.logits_stride = 20,
    p.targets = targets.data();
    p.nll = nll.data(), p.dlogits = grad.data(), p.dlogits_stride = 20;
    under(set, [&] { cross_entropy(p); });
    EXPECT_EQ(nll[0], 0);
    for (int i = 0; i < 20; ++i) EXPECT_EQ(grad[i], 0);
    EXPECT_TRUE(std::isnan(nll[1])) << name(set);
    EXPECT_NEAR(nll[2], std::log(20.0), 1e-6);
  }
}

TEST(CrossEntropy, gradient_is_the_derivative) {
  const int64_t vocab = 7;
  std::vector<double> logits = random_values<double>(vocab, 1, 1, 0), grad(vocab);
  const int64_t target = 2;
  const auto loss = [&] {
    double nll = 0, lse = 0;
    CrossEntropyParams p;
    p.dtype = p.grad_type = DType::f64;
    p.num_rows = 1, p.vocab_size = vocab, p.logits = logits.data(), p.logits_stride = vocab,
    p.targets = &target;
    p.coefficient = 0.7, p.z_loss = 0.01, p.nll_f64 = &nll, p.lse_f64 = &lse, p.dlogits = grad.data(),
    p.dlogits_stride = vocab;
    cross_entropy(p);
    return 0.7 * (nll + 0.01 * lse * lse);
  };
  loss();
  const std::vector<double> expected = grad;
  for (int64_t i = 0; i < vocab; ++i) EXPECT_NEAR(expected[i], derivative(logits[i], loss), 1e-9);
}

}  // namespace
}  // namespace fathom::kernels::testing

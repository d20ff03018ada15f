#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/attention_problem.h"

namespace fathom::kernels::testing {
namespace {

using Case = AttentionCase;
template <typename T>
using Problem = AttentionProblem<T>;

template <typename T>
void check(const Case& c) {
  Problem<T> expected(c);
  under(Isa::reference, [&] {
    expected.forward();
    expected.backward();
  });
  double top = 1;
  for (float x : expected.lse)
    if (std::isfinite(x)) top = std::max(top, std::abs(double(x)));
  for (Isa set : fast_sets()) {
    SCOPED_TRACE(::testing::Message()
                 << name(set) << " dtype " << sizeof(T) << " B " << c.sequences << " S " << c.length << " N "
                 << c.heads << " Dqk " << c.qk_dim << " Dv " << c.v_dim);
    Problem<T> actual(c);
    under(set, [&] {
      actual.forward();
      const Bound lse_bound{4 * kEpsF32, kEpsF32 * (8 + 8 * top), 1};
      EXPECT_TRUE(close(actual.lse, expected.lse, lse_bound, "lse"));
      EXPECT_TRUE(close(actual.out, expected.out, attention_bound(actual, expected.out, top), "out"));
      actual.out = expected.out;  // the same starting point for the backward
      actual.lse = expected.lse;
      actual.backward();
      EXPECT_TRUE(close(actual.dq, expected.dq, attention_bound(actual, expected.dq, top), "dq"));
      EXPECT_TRUE(close(actual.dk, expected.dk, attention_bound(actual, expected.dk, top), "dk"));
      EXPECT_TRUE(close(actual.dv, expected.dv, attention_bound(actual, expected.dv, top), "dv"));
    });
  }
}

TEST(Attention, agrees_with_the_reference) {
  for (const Case& c : {Case{1, 1, 1, 16, 16}, Case{2, 7, 3, 48, 32, 5}, Case{1, 63, 2, 96, 64},
                        Case{1, 64, 1, 192, 128}, Case{2, 65, 2, 96, 64, 3}, Case{1, 200, 2, 48, 32},
                        Case{1, 130, 1, 24, 20, 1}, Case{1, 70, 1, 9, 7, 2}, Case{3, 128, 1, 64, 64}}) {
    check<float>(c);
    check<bf16>(c);
  }
}

TEST(Attention, DATA_4_documents_are_isolated) {
  // Ragged documents over blocks, one of them one token long, and rows that see nothing.
  Case c{2, 150, 2, 48, 32, 4};
  c.doc_start.assign(300, 0);
  for (int32_t t = 0; t < 150; ++t) c.doc_start[t] = t < 5 ? 0 : t < 6 ? 5 : t < 70 ? 6 : t < 131 ? 70 : 131;
  for (int32_t t = 0; t < 150; ++t) c.doc_start[150 + t] = t < 100 ? 64 * (t / 64) : 1000;
  check<float>(c);
  check<bf16>(c);

  for (Isa set : fast_sets()) {
    Problem<float> p(c);
    under(set, [&] {
      p.forward();
      p.backward();
    });
    const int64_t token = 2 * (32 + 4);
    for (int64_t t = 150 + 100; t < 300; ++t) {
      EXPECT_EQ(p.lse[2 * 150 + t - 150], std::numeric_limits<float>::infinity());
      for (int64_t d = 0; d < 32; ++d) {
        EXPECT_EQ(p.out[t * token + d], 0);
        EXPECT_EQ(p.dv[t * token + d], 0);
      }
    }
    // A document alone gives what it gives in company.
    Case alone{1, 61, 2, 48, 32, 4};
    Problem<float> one(alone);
    const int64_t qk_token = 2 * (48 + 4);
    std::copy_n(p.q.begin() + 70 * qk_token, 61 * qk_token, one.q.begin());
    std::copy_n(p.k.begin() + 70 * qk_token, 61 * qk_token, one.k.begin());
    std::copy_n(p.v.begin() + 70 * token, 61 * token, one.v.begin());
    under(set, [&] { one.forward(); });
    const std::vector<float> part(p.out.begin() + 70 * token, p.out.begin() + 131 * token);
    EXPECT_TRUE(close(one.out, part, {1e-5, 1e-5 * largest_finite(part), 1}, "document alone"));
  }
}

TEST(Attention, no_tokens) {
  for (Isa set : {Isa::reference, Isa::avx2}) {
    if (!is_supported(set)) continue;
    under(set, [&] {
      for (const Case& c : {Case{0, 5, 2, 16, 16}, Case{2, 0, 2, 16, 16}, Case{2, 5, 0, 16, 16}}) {
        Problem<float> p(c);
        p.forward();
        p.backward();
      }
    });
  }
}

TEST(Attention, same_bits_for_any_number_of_threads) {
  const ThreadsRestored restored;
  const Case c{1, 300, 1, 48, 32};
  for (Isa set : fast_sets()) {
    under(set, [&] {
      Problem<bf16> one(c), four(c);
      set_num_threads(1);
      one.forward();
      one.backward();
      set_num_threads(4);  // more threads than heads: a head is cut into parts
      four.forward();
      four.backward();
      EXPECT_TRUE(same_bits(four.out, one.out));
      EXPECT_TRUE(same_bits(four.lse, one.lse));
      EXPECT_TRUE(same_bits(four.dq, one.dq));
      EXPECT_TRUE(same_bits(four.dk, one.dk));
    });
  }
}

TEST(Attention, backward_is_the_derivative) {
  // Central differences in double on the reference: loss = <out, dout>.
  Case c{1, 6, 2, 5, 3, 1};
  c.doc_start = {0, 0, 0, 3, 3, 3};
  Problem<double> p(c);
  p.forward();
  p.backward();
  const auto loss = [&](Problem<double>& at) {
    at.forward();
    double sum = 0;
    for (std::size_t i = 0; i < at.out.size(); ++i)
      if (!std::isnan(at.out[i])) sum += at.out[i] * at.dout[i];
    return sum;
  };
  const auto check_gradient = [&](std::vector<double> Problem<double>::*x,
                                  std::vector<double> Problem<double>::*dx) {
    for (std::size_t i = 0; i < (p.*x).size(); ++i) {
      if (std::isnan((p.*x)[i])) {
        EXPECT_TRUE(std::isnan((p.*dx)[i]));
        continue;
      }
      Problem<double> up = p, down = p;
      const double h = 1e-5;
      (up.*x)[i] += h;
      (down.*x)[i] -= h;
      // lse is stored in fp32, which leaves 1e-6 of the probabilities.
      EXPECT_NEAR((loss(up) - loss(down)) / (2 * h), (p.*dx)[i], 2e-5 * (1 + std::abs((p.*dx)[i])));
    }
  };
  check_gradient(&Problem<double>::q, &Problem<double>::dq);
  check_gradient(&Problem<double>::k, &Problem<double>::dk);
  check_gradient(&Problem<double>::v, &Problem<double>::dv);
}

TEST(Attention, NaN_reaches_the_output) {
  for (Isa set : fast_sets()) {
    Problem<float> p({1, 70, 1, 16, 16});
    p.q[3 * 16] = NAN;
    under(set, [&] { p.forward(); });
    EXPECT_TRUE(std::isnan(p.out[3 * 16])) << name(set);
    EXPECT_FALSE(std::isnan(p.out[2 * 16])) << name(set);
  }
}

}  // namespace
}  // namespace fathom::kernels::testing

#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/parallel.h"
#include "kernels/support.h"
#include "support/compare.h"

namespace fathom::kernels::testing {
namespace {

using fathom::testing::Bound;
using fathom::testing::close;
using fathom::testing::same_bits;

struct Case {
  int64_t sequences, length, heads, qk_dim, v_dim;
  int64_t gap = 0;  // elements between heads that must be neither read nor written
  std::vector<int32_t> doc_start = {};
};

// One problem in memory: tensors [T, N, D] with gaps of NaN between the heads.
template <typename T>
struct Problem {
  explicit Problem(const Case& c, uint32_t seed = 1)
      : shape{dtype_of<T>(),
              c.sequences,
              c.length,
              c.heads,
              c.qk_dim,
              c.v_dim,
              1 / std::sqrt(double(c.qk_dim))},
        gap(c.gap),
        doc_start(c.doc_start) {
    const int64_t tokens = c.sequences * c.length;
    q = tensor(tokens, c.qk_dim, seed);
    k = tensor(tokens, c.qk_dim, seed + 1);
    v = tensor(tokens, c.v_dim, seed + 2);
    dout = tensor(tokens, c.v_dim, seed + 3);
    out = blank(tokens, c.v_dim);
    dq = blank(tokens, c.qk_dim);
    dk = blank(tokens, c.qk_dim);
    dv = blank(tokens, c.v_dim);
    lse.assign(static_cast<std::size_t>(tokens * c.heads), -7);
  }

  void forward() {
    AttentionForwardParams p;
    p.shape = shape;
    p.q = q.data(), p.q_token_stride = token_stride(shape.qk_head_dim),
    p.q_head_stride = shape.qk_head_dim + gap;
    p.k = k.data(), p.k_token_stride = p.q_token_stride, p.k_head_stride = p.q_head_stride;
    p.v = v.data(), p.v_token_stride = token_stride(shape.v_head_dim),
    p.v_head_stride = shape.v_head_dim + gap;
    p.out = out.data(), p.out_token_stride = p.v_token_stride, p.out_head_stride = p.v_head_stride;
    p.lse = lse.data();
    p.doc_start = doc_start.empty() ? nullptr : doc_start.data();
    attention_forward(p);
  }

  void backward() {
    AttentionBackwardParams p;
    p.shape = shape;
    const int64_t qk_token = token_stride(shape.qk_head_dim), qk_head = shape.qk_head_dim + gap;
    const int64_t v_token = token_stride(shape.v_head_dim), v_head = shape.v_head_dim + gap;
    p.q = q.data(), p.q_token_stride = qk_token, p.q_head_stride = qk_head;
    p.k = k.data(), p.k_token_stride = qk_token, p.k_head_stride = qk_head;
    p.v = v.data(), p.v_token_stride = v_token, p.v_head_stride = v_head;
    p.out = out.data(), p.out_token_stride = v_token, p.out_head_stride = v_head;
    p.dout = dout.data(), p.dout_token_stride = v_token, p.dout_head_stride = v_head;
    p.dq = dq.data(), p.dq_token_stride = qk_token, p.dq_head_stride = qk_head;
    p.dk = dk.data(), p.dk_token_stride = qk_token, p.dk_head_stride = qk_head;
    p.dv = dv.data(), p.dv_token_stride = v_token, p.dv_head_stride = v_head;
    p.lse = lse.data();
    p.doc_start = doc_start.empty() ? nullptr : doc_start.data();
    attention_backward(p);
  }

  int64_t token_stride(int64_t dim) const { return shape.num_heads * (dim + gap); }
  std::vector<T> blank(int64_t tokens, int64_t dim) const {
    return std::vector<T>(static_cast<std::size_t>(tokens * token_stride(dim)), from_double<T>(NAN));
  }
  std::vector<T> tensor(int64_t tokens, int64_t dim, uint32_t seed) const {
    std::vector<T> x = random_values<T>(tokens * token_stride(dim), seed);
    for (int64_t i = 0; i < static_cast<int64_t>(x.size()); ++i)
      if (i % (dim + gap) >= dim) x[static_cast<std::size_t>(i)] = from_double<T>(NAN);
    return x;
  }

  AttentionShape shape;
  int64_t gap;
  std::vector<int32_t> doc_start;
  std::vector<T> q, k, v, out, dout, dq, dk, dv;
  std::vector<float> lse;
};

template <typename T>
double largest(const std::vector<T>& x) {
  double m = 0;
  for (const T& value : x)
    if (std::isfinite(fathom::testing::as_double(value)))
      m = std::max(m, std::abs(fathom::testing::as_double(value)));
  return m;
}

// Sums of n products in fp32 err by a random walk, so about sqrt(n) of half an ulp of the largest terms;
// scores up to `s` turn an error of eps into s * eps of their exponential. bf16 adds the rounding of P, dS
// and the result.
template <typename T>
Bound bound(const Problem<T>& p, const std::vector<T>& expected, double top_score) {
  const double sums = std::sqrt(double(p.shape.seq_length + p.shape.qk_head_dim)) + 4 * top_score;
  const double eps = fathom::testing::kEpsF32 * sums;
  const double size = std::max(
      1.0, largest(expected));  // inputs are of order 1: where all cancels (S = 1) their rounding stays
  if (sizeof(T) == 2) return {fathom::testing::kEpsBf16, (fathom::testing::kEpsBf16 + eps) * size, 2e-5};
  return {eps, eps * size, eps * eps};  // the cosine differs by half the square of the relative error
}

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
      const Bound lse_bound{4 * fathom::testing::kEpsF32, fathom::testing::kEpsF32 * (8 + 8 * top), 1};
      EXPECT_TRUE(close(actual.lse, expected.lse, lse_bound, "lse"));
      EXPECT_TRUE(close(actual.out, expected.out, bound(actual, expected.out, top), "out"));
      actual.out = expected.out;  // the same starting point for the backward
      actual.lse = expected.lse;
      actual.backward();
      EXPECT_TRUE(close(actual.dq, expected.dq, bound(actual, expected.dq, top), "dq"));
      EXPECT_TRUE(close(actual.dk, expected.dk, bound(actual, expected.dk, top), "dk"));
      EXPECT_TRUE(close(actual.dv, expected.dv, bound(actual, expected.dv, top), "dv"));
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
    EXPECT_TRUE(close(one.out, part, {1e-5, 1e-5 * largest(part), 1}, "document alone"));
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
  const int before = num_threads();
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
  set_num_threads(before);
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

#include "kernels/gemm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/support.h"

namespace fathom::kernels::testing {
namespace {

enum class Form { nt, nn, tn };

struct Case {
  std::vector<int64_t> counts;  // rows of each group
  int64_t n, k;
  int64_t gap = 0;  // elements past each row that must be neither read nor written
};

std::string to_string(Form form, const Case& c) {
  std::string text = form == Form::nt ? "nt" : form == Form::nn ? "nn" : "tn";
  for (int64_t count : c.counts) text += " " + std::to_string(count);
  return text + " rows, n " + std::to_string(c.n) + " k " + std::to_string(c.k) + " gap " +
         std::to_string(c.gap);
}

// The operands of all three forms: left [rows, k or n], right, and the result between guards.
template <typename T, typename Out>
struct Problem {
  Problem(Form f, const Case& c, bool add = false)
      : form(f), shape(c), accumulate(add), offsets{0}, result(1) {
    for (int64_t count : c.counts) offsets.push_back(offsets.back() + count);
    const int64_t rows = offsets.back(), groups = static_cast<int64_t>(c.counts.size());
    left_dim = form == Form::nt ? c.k : c.n;
    right_dim = c.k;
    left = random_rows<T>(rows, left_dim, c.gap, 1);
    right = random_rows<T>(form == Form::tn ? rows : groups * c.n, right_dim, c.gap, 2);
    out_rows = form == Form::tn ? groups * c.n : rows;
    out_dim = form == Form::nt ? c.n : c.k;
    std::vector<Out> start = random_rows<Out>(out_rows, out_dim, c.gap, 3);
    if (!accumulate) {
      for (int64_t i = 0; i < out_rows; ++i)
        for (int64_t j = 0; j < out_dim; ++j)
          start[static_cast<std::size_t>(i * (out_dim + c.gap) + j)] = from_double<Out>(NAN);
    }
    result = Guarded<Out>(start, 1);
  }

  void run() {
    const int64_t groups = static_cast<int64_t>(shape.counts.size()), gap = shape.gap;
    if (form == Form::tn) {
      GroupedGemmTnParams p{dtype_of<T>(), dtype_of<Out>(), groups, offsets.data(), shape.n, shape.k};
      p.d = left.data(), p.ldd = left_dim + gap;
      p.x = right.data(), p.ldx = right_dim + gap;
      p.g = result.data(), p.ldg = out_dim + gap, p.g_group_stride = shape.n * p.ldg;
      p.overwrite = !accumulate;
      grouped_gemm_tn(p);
      return;
    }
    GroupedGemmParams p{dtype_of<T>(), dtype_of<Out>(), groups, offsets.data(), shape.n, shape.k};
    p.a = left.data(), p.lda = left_dim + gap;
    p.w = right.data(), p.ldw = right_dim + gap, p.w_group_stride = shape.n * p.ldw;
    p.c = result.data(), p.ldc = out_dim + gap;
    form == Form::nt ? grouped_gemm_nt(p) : grouped_gemm_nn(p);
  }

  int64_t depth() const {
    if (form == Form::tn)
      return shape.counts.empty() ? 0 : *std::max_element(shape.counts.begin(), shape.counts.end());
    return form == Form::nt ? shape.k : shape.n;
  }

  Form form;
  Case shape;
  bool accumulate;
  std::vector<int64_t> offsets;
  int64_t left_dim, right_dim, out_rows, out_dim;
  std::vector<T> left, right;
  Guarded<Out> result;
};

// A sum of `depth` products errs by a random walk of as many roundings, each half an ulp of a partial sum, of
// which the largest is about as large as the largest result. Near a tie, bf16 goes to the other neighbour.
template <typename Out>
Bound bound(int64_t depth, const std::vector<Out>& expected) {
  const double largest = std::max(1.0, largest_finite(expected));
  const double sums = kEpsF32 * std::sqrt(double(depth) + 4) * largest;
  return {sizeof(Out) == 2 ? 2 * kEpsBf16 : 0, sums, sizeof(Out) == 2 ? 2e-5 : 1e-12};
}

template <typename T, typename Out>
void check(Form form, const Case& c, bool accumulate) {
  Problem<T, Out> expected(form, c, accumulate);
  under(Isa::reference, [&] { expected.run(); });
  const std::vector<Out> values = expected.result.values();
  for (Isa set : fast_sets()) {
    Problem<T, Out> actual(form, c, accumulate);
    under(set, [&] { actual.run(); });
    const std::string what = std::string(name(set)) + " " + to_string(form, c) + (accumulate ? " added" : "");
    EXPECT_TRUE(actual.result.is_intact()) << what;
    EXPECT_TRUE(close(actual.result.values(), values, bound(expected.depth(), values), what));
  }
}

void check_all(const Case& c) {
  for (Form form : {Form::nt, Form::nn, Form::tn}) {
    for (bool accumulate : {false, true}) {
      if (accumulate && form != Form::tn) continue;
      check<bf16, bf16>(form, c, accumulate);
      check<bf16, float>(form, c, accumulate);
      check<float, float>(form, c, accumulate);
    }
  }
}

TEST(Gemm, reference_is_the_definition) {
  for (Form form : {Form::nt, Form::nn, Form::tn}) {
    Problem<double, double> p(form, {{3, 0, 2}, 2, 3, 1}, form == Form::tn);
    const std::vector<double> start = p.result.values();
    p.run();
    const std::vector<double> result = p.result.values();
    const int64_t ldl = p.left_dim + 1, ldr = p.right_dim + 1, ldo = p.out_dim + 1;
    for (int64_t e = 0; e < 3; ++e) {
      const int64_t first = p.offsets[e], last = p.offsets[e + 1];
      for (int64_t n = 0; form == Form::tn && n < 2; ++n)
        for (int64_t k = 0; k < 3; ++k) {
          double sum = start[(2 * e + n) * ldo + k];
          for (int64_t m = first; m < last; ++m) sum += p.left[m * ldl + n] * p.right[m * ldr + k];
          EXPECT_NEAR(result[(2 * e + n) * ldo + k], sum, 1e-12);
        }
      for (int64_t m = first; form != Form::tn && m < last; ++m)
        for (int64_t j = 0; j < p.out_dim; ++j) {
          double sum = 0;
          for (int64_t i = 0; i < p.left_dim; ++i)
            sum += p.left[m * ldl + i] *
                   (form == Form::nt ? p.right[(2 * e + j) * ldr + i] : p.right[(2 * e + i) * ldr + j]);
          EXPECT_NEAR(result[m * ldo + j], sum, 1e-12);
        }
    }
  }
}

TEST(Gemm, agrees_with_the_reference) {
  for (const Case& c : {Case{{1}, 1, 1}, Case{{5, 0, 1, 3}, 3, 7, 1}, Case{{16, 32}, 32, 64},
                        Case{{0, 17, 2}, 33, 31, 3}, Case{{31, 33}, 65, 130, 2}, Case{{130}, 100, 96, 4},
                        Case{{40, 0, 60}, 50, 700, 5}, Case{{7}, 600, 34}}) {
    check_all(c);
  }
  check_all({{1100}, 40, 33});  // long sums for tn
}

TEST(Gemm, sweep_around_the_widths) {
  for (int64_t size = 1; size <= 70; size += size % 16 == 1 || size % 16 == 15 ? 1 : 3) {
    check<bf16, float>(Form::nt, {{3, size}, 5, size}, false);
    check<bf16, bf16>(Form::nn, {{2, 3}, size, size, 1}, false);
    check<float, float>(Form::nt, {{size, 1}, size, 5}, false);
    check<bf16, float>(Form::tn, {{size}, size, 3}, true);
    check<float, float>(Form::tn, {{2, size}, 3, size}, true);
  }
}

TEST(Gemm, no_sizes) {
  for (const Case& c : {Case{{}, 4, 4}, Case{{0, 0}, 4, 5}, Case{{3, 2}, 0, 4}, Case{{3, 2}, 4, 0}})
    check_all(c);
}

TEST(Gemm, empty_groups_become_zero_only_when_overwriting) {
  for (Isa set : fast_sets()) {
    Problem<bf16, float> replaced(Form::tn, {{0, 4}, 3, 5}), added(Form::tn, {{0, 4}, 3, 5}, true);
    const std::vector<float> before = added.result.values();
    under(set, [&] {
      replaced.run();
      added.run();
    });
    for (int64_t i = 0; i < 15; ++i) {
      EXPECT_EQ(replaced.result.values()[i], 0);
      EXPECT_EQ(added.result.values()[i], before[i]);
    }
  }
}

// Batch invariance: a row alone has the bits that it has in company, whatever group sizes and threads.
template <typename T, typename Out>
void check_rows_alone(Form form) {
  for (Isa set : fast_sets()) {
    Problem<T, Out> all(form, {{150}, 70, 1100, 2});
    under(set, [&] { all.run(); });
    const std::vector<Out> expected = all.result.values();
    for (auto [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {149, 1}, {40, 7}, {3, 64}, {10, 130}}) {
      Problem<T, Out> some(form, {{count}, 70, 1100, 2});
      std::copy_n(all.left.begin() + first * (all.left_dim + 2), count * (all.left_dim + 2),
                  some.left.begin());
      some.right = all.right;
      under(set, [&] { some.run(); });
      const int64_t stride = all.out_dim + 2;
      EXPECT_TRUE(same_bits(
          some.result.values(),
          std::vector<Out>(expected.begin() + first * stride, expected.begin() + (first + count) * stride)))
          << name(set) << " " << to_string(form, some.shape);
    }
  }
}

TEST(Gemm, a_row_does_not_depend_on_other_rows) {
  for (Form form : {Form::nt, Form::nn}) {
    check_rows_alone<bf16, bf16>(form);
    check_rows_alone<bf16, float>(form);
    check_rows_alone<float, float>(form);
  }
}

TEST(Gemm, same_bits_for_any_number_of_threads) {
  const ThreadsRestored restored;
  for (Isa set : fast_sets()) {
    for (Form form : {Form::nt, Form::nn, Form::tn}) {
      for (const Case& c : {Case{{700}, 300, 530}, Case{{3, 300, 0, 77}, 560, 90}}) {
        Problem<bf16, float> one(form, c), three(form, c);
        under(set, [&] {
          set_num_threads(1);
          one.run();
          set_num_threads(3);
          three.run();
        });
        EXPECT_TRUE(same_bits(three.result.values(), one.result.values()))
            << name(set) << " " << to_string(form, c);
      }
    }
  }
}

TEST(Gemm, NaN_and_infinity_stay_in_their_row) {
  for (Isa set : fast_sets()) {
    for (Form form : {Form::nt, Form::nn}) {
      Problem<bf16, bf16> p(form, {{40}, 33, 35});
      p.left[2 * p.left_dim] = from_double<bf16>(NAN);
      p.left[3 * p.left_dim + p.left_dim - 1] = from_double<bf16>(std::numeric_limits<double>::infinity());
      under(set, [&] { p.run(); });
      const std::vector<bf16> result = p.result.values();
      for (int64_t row = 0; row < 40; ++row)
        for (int64_t j = 0; j < p.out_dim; ++j) {
          const double x = as_double(result[row * p.out_dim + j]);
          EXPECT_EQ(std::isnan(x), row == 2) << name(set) << row;
          EXPECT_EQ(std::isinf(x), row == 3) << name(set) << row;
        }
    }
  }
}

}  // namespace
}  // namespace fathom::kernels::testing

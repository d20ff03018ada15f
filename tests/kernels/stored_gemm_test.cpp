// Products with weights as files hold them: fp8 blocks give the bits of the same product with the weights cast first.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "kernels/fp8.h"
#include "kernels/gemm.h"
#include "kernels/support.h"

namespace fathom::kernels::testing {
namespace {

struct Case {
  std::vector<int64_t> counts;  // rows of each group
  int64_t n, k;
  int64_t gap = 0;  // behind each row: NaN that must not be read
};

int64_t blocks(int64_t extent) { return (extent + kFp8Block - 1) / kFp8Block; }

// Every group's matrix lies in a vector of its own.
struct Problem {
  explicit Problem(const Case& c) : shape(c), offsets{0} {
    for (const int64_t count : c.counts) offsets.push_back(offsets.back() + count);
    a = random_rows<bf16>(offsets.back(), c.k, c.gap, 1);
    for (size_t e = 0; e < c.counts.size(); ++e) {
      std::mt19937 generator(static_cast<uint32_t>(e + 2));
      std::vector<uint8_t> code(static_cast<size_t>(c.n * (c.k + c.gap)), 0x7f);
      for (int64_t i = 0; i < c.n; ++i)
        for (int64_t j = 0; j < c.k; ++j) {
          const auto drawn = static_cast<uint8_t>(generator());
          code[static_cast<size_t>(i * (c.k + c.gap) + j)] = (drawn & 0x7f) == 0x7f ? 0 : drawn;
        }
      const int64_t rows = blocks(c.n), columns = blocks(c.k);
      std::vector<float> scale(static_cast<size_t>(rows * (columns + 1)), NAN);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
          scale[static_cast<size_t>(i * (columns + 1) + j)] =
              std::ldexp(1.0f + float(generator() % 97) / 97, -9);
      codes.push_back(std::move(code));
      scales.push_back(std::move(scale));
    }
  }

  float value(size_t e, int64_t row, int64_t column) const {
    const float scale =
        scales[e][static_cast<size_t>(row / kFp8Block * (blocks(shape.k) + 1) + column / kFp8Block)];
    return e4m3_value(codes[e][static_cast<size_t>(row * (shape.k + shape.gap) + column)]) * scale;
  }

  template <typename Out>
  std::vector<Out> run() const {
    std::vector<StoredMatrix> w;
    for (size_t e = 0; e < codes.size(); ++e)
      w.push_back({shape.counts[e] == 0 ? nullptr : codes[e].data(), shape.k + shape.gap, scales[e].data(),
                   blocks(shape.k) + 1});
    Guarded<Out> c(random_rows<Out>(offsets.back(), shape.n, shape.gap, 3), 1);
    StoredGemmParams p{DType::bf16,    dtype_of<Out>(), static_cast<int64_t>(w.size()),
                       offsets.data(), shape.n,         shape.k};
    p.a = a.data(), p.lda = shape.k + shape.gap;
    p.w = w.data();
    p.c = c.data(), p.ldc = shape.n + shape.gap;
    stored_gemm_nt(p);
    EXPECT_TRUE(c.is_intact());
    return c.values();
  }

  // With the weights cast beforehand: through grouped_gemm_nt, or as stored matrices of bf16.
  template <typename Out>
  std::vector<Out> run_cast(bool as_stored) const {
    std::vector<bf16> cast;
    for (size_t e = 0; e < codes.size(); ++e)
      for (int64_t i = 0; i < shape.n; ++i)
        for (int64_t j = 0; j < shape.k; ++j) cast.push_back(to_bf16(value(e, i, j)));
    Guarded<Out> c(random_rows<Out>(offsets.back(), shape.n, shape.gap, 3), 1);
    const auto groups = static_cast<int64_t>(codes.size());
    if (as_stored) {
      std::vector<StoredMatrix> w;
      for (int64_t e = 0; e < groups; ++e) w.push_back({cast.data() + e * shape.n * shape.k, shape.k});
      StoredGemmParams p{DType::bf16, dtype_of<Out>(), groups, offsets.data(), shape.n, shape.k};
      p.a = a.data(), p.lda = shape.k + shape.gap, p.w = w.data(), p.c = c.data(),
      p.ldc = shape.n + shape.gap;
      stored_gemm_nt(p);
    } else {
      GroupedGemmParams p{DType::bf16, dtype_of<Out>(), groups, offsets.data(), shape.n, shape.k};
      p.a = a.data(), p.lda = shape.k + shape.gap, p.w = cast.data(), p.ldw = shape.k;
      p.w_group_stride = shape.n * shape.k, p.c = c.data(), p.ldc = shape.n + shape.gap;
      grouped_gemm_nt(p);
    }
    return c.values();
  }

  Case shape;
  std::vector<int64_t> offsets;
  std::vector<bf16> a;
  std::vector<std::vector<uint8_t>> codes;
  std::vector<std::vector<float>> scales;
};

const std::vector<Case> kCases = {
    {{1}, 1, 1},         {{3, 0, 2}, 2, 3, 1}, {{1}, 128, 128},   {{5, 0, 1, 3}, 127, 129, 1},
    {{33}, 129, 127, 3}, {{2}, 300, 260, 2},   {{1, 1}, 64, 700}, {{0, 17, 2}, 31, 33},
    {{0, 0}, 4, 5},      {{}, 4, 4},           {{3, 2}, 0, 4},    {{3, 2}, 4, 0},
    {{130}, 520, 150},   {{1}, 200, 1300, 5},
};

std::string to_string(Isa set, const Case& c) {
  std::string text = name(set);
  for (const int64_t count : c.counts) text += " " + std::to_string(count);
  return text + " rows, n " + std::to_string(c.n) + " k " + std::to_string(c.k);
}

TEST(StoredGemm, fp8_blocks_give_the_bits_of_weights_cast_first) {
  for (const Case& c : kCases) {
    const Problem problem(c);
    for (const Isa set : all_sets()) {
      under(set, [&] {
        EXPECT_TRUE(same_bits(problem.run<bf16>(), problem.run_cast<bf16>(false))) << to_string(set, c);
        EXPECT_TRUE(same_bits(problem.run<float>(), problem.run_cast<float>(false))) << to_string(set, c);
        EXPECT_TRUE(same_bits(problem.run<float>(), problem.run_cast<float>(true))) << to_string(set, c);
      });
    }
  }
}

TEST(StoredGemm, reference_is_the_definition) {
  const Problem problem({{2, 0, 3}, 130, 140, 1});
  const std::vector<float> result = under(Isa::reference, [&] { return problem.run<float>(); });
  for (size_t e = 0; e < 3; ++e)
    for (int64_t m = problem.offsets[e]; m < problem.offsets[e + 1]; ++m)
      for (int64_t i = 0; i < 130; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < 140; ++j)
          sum += double(to_float(problem.a[static_cast<size_t>(m * 141 + j)])) *
                 double(to_float(to_bf16(problem.value(e, i, j))));
        ASSERT_EQ(result[static_cast<size_t>(m * 131 + i)], static_cast<float>(sum))
            << e << " " << m << " " << i;
      }
}

TEST(StoredGemm, a_row_does_not_depend_on_other_rows_nor_on_threads) {
  const ThreadsRestored restored;
  const Problem all({{37}, 300, 530});
  Problem one({{1}, 300, 530});
  for (const Isa set : fast_sets()) {
    under(set, [&] {
      set_num_threads(1);
      const std::vector<float> expected = all.run<float>();
      set_num_threads(3);
      EXPECT_TRUE(same_bits(all.run<float>(), expected)) << name(set);
      for (const int64_t row : {0, 17, 36}) {
        std::copy_n(all.a.begin() + row * 530, 530, one.a.begin());
        EXPECT_TRUE(same_bits(one.run<float>(), std::vector<float>(expected.begin() + row * 300,
                                                                   expected.begin() + (row + 1) * 300)))
            << name(set) << " " << row;
      }
    });
  }
}

TEST(StoredGemm, a_NaN_code_reaches_its_column_only) {
  Problem problem({{3}, 140, 150});
  problem.codes[0][5 * 150 + 149] = 0x7f;
  for (const Isa set : all_sets()) {
    const std::vector<float> result = under(set, [&] { return problem.run<float>(); });
    for (int64_t i = 0; i < 3 * 140; ++i)
      ASSERT_EQ(std::isnan(result[static_cast<size_t>(i)]), i % 140 == 5) << name(set) << " " << i;
  }
}

}  // namespace
}  // namespace fathom::kernels::testing

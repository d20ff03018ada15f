#include "kernels/moe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/support.h"

namespace fathom::kernels::testing {
namespace {

struct Plan {
  Plan(int64_t tokens, int64_t choices, int64_t experts, const std::vector<int32_t>& indices)
      : counts(experts),
        offsets(experts + 1),
        row_token(tokens * choices),
        row_choice(tokens * choices),
        choice_row(tokens * choices) {
    moe_plan({tokens, choices, experts, indices.data(), counts.data(), offsets.data(), row_token.data(),
              row_choice.data(), choice_row.data()});
  }
  std::vector<int64_t> counts, offsets;
  std::vector<int32_t> row_token, row_choice, choice_row;
};

// K distinct experts a token; experts 1 and the last get nothing.
std::vector<int32_t> some_indices(int64_t tokens, int64_t choices, int64_t experts) {
  std::vector<int32_t> indices;
  std::mt19937 generator(7);
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<int32_t> pool;
    for (int32_t e = 0; e < experts - 1; ++e)
      if (e != 1) pool.push_back(e);
    std::shuffle(pool.begin(), pool.end(), generator);
    indices.insert(indices.end(), pool.begin(), pool.begin() + choices);
  }
  return indices;
}

TEST(MoePlan, rows_are_sorted_by_expert_then_token) {
  const Plan plan(3, 2, 4, {2, 0, 0, 3, 2, 0});
  EXPECT_EQ(plan.counts, (std::vector<int64_t>{3, 0, 2, 1}));
  EXPECT_EQ(plan.offsets, (std::vector<int64_t>{0, 3, 3, 5, 6}));
  EXPECT_EQ(plan.row_token, (std::vector<int32_t>{0, 1, 2, 0, 2, 1}));
  EXPECT_EQ(plan.row_choice, (std::vector<int32_t>{1, 2, 5, 0, 4, 3}));
  EXPECT_EQ(plan.choice_row, (std::vector<int32_t>{3, 0, 1, 5, 4, 2}));
  const Plan empty(0, 2, 4, {});
  EXPECT_EQ(empty.offsets, (std::vector<int64_t>{0, 0, 0, 0, 0}));
  EXPECT_EQ(empty.counts, (std::vector<int64_t>{0, 0, 0, 0}));
}

template <typename T>
void check_movement() {
  for (Isa set : fast_sets()) {
    for (int64_t tokens : {0, 1, 13}) {
      for (int64_t dim : {1, 7, 8, 9, 15, 16, 17, 100}) {
        SCOPED_TRACE(::testing::Message() << name(set) << " tokens " << tokens << " dim " << dim);
        const int64_t choices = 3, experts = 8, num_rows = tokens * choices;
        const std::vector<int32_t> indices = some_indices(tokens, choices, experts);
        const Plan plan(tokens, choices, experts, indices);
        const std::vector<T> x = random_values<T>(tokens * (dim + 2), 1);
        Guarded<T> gathered(num_rows * dim, 1);
        under(set, [&] {
          moe_gather(
              {dtype_of<T>(), num_rows, dim, x.data(), dim + 2, plan.row_token.data(), gathered.data()});
        });
        EXPECT_TRUE(gathered.is_intact());
        for (int64_t s = 0; s < num_rows; ++s)
          for (int64_t i = 0; i < dim; ++i)
            ASSERT_EQ(as_double(gathered.data()[s * dim + i]),
                      as_double(x[plan.row_token[s] * (dim + 2) + i]));

        Guarded<T> rows(random_values<T>(num_rows * dim, 2), 1), add(random_values<T>(tokens * dim, 3), 1),
            y(tokens * dim, 1);
        Guarded<T> dy(random_values<T>(tokens * dim, 4), 1), drows(num_rows * dim, 1);
        std::vector<float> weights = random_values<float>(num_rows, 5, 1, 0),
                           dweights(static_cast<std::size_t>(num_rows));
        const MoeCombineParams combine{
            dtype_of<T>(),          tokens,         choices,    dim,     rows.data(),
            plan.choice_row.data(), weights.data(), add.data(), y.data()};
        const MoeCombineBackwardParams backward{
            dtype_of<T>(),          tokens,         choices,   dim,          rows.data(),
            plan.choice_row.data(), weights.data(), dy.data(), drows.data(), dweights.data()};
        under(Isa::reference, [&] {
          moe_combine(combine);
          moe_combine_backward(backward);
        });
        const std::vector<T> expected_y = y.values(), expected_drows = drows.values();
        const std::vector<float> expected_dweights = dweights;
        under(set, [&] {
          moe_combine(combine);
          moe_combine_backward(backward);
        });
        const double eps = sizeof(T) == 2 ? 2.01 * kEpsBf16 : 2 * kEpsF32;
        EXPECT_TRUE(close(y.values(), expected_y, Bound{eps, 4 * kEpsF32 * 200, 1}, "y"));
        EXPECT_TRUE(close(drows.values(), expected_drows, Bound{eps, 0, 1}, "drows"));
        EXPECT_TRUE(
            close(dweights, expected_dweights, Bound{0, kEpsF32 * std::sqrt(dim + 1.) * 800, 1}, "dweights"));
        EXPECT_TRUE(y.is_intact() && drows.is_intact());

        // In place: the gradient of a row over the row, the sum over what is added.
        MoeCombineBackwardParams over = backward;
        over.drows = rows.data();
        MoeCombineParams onto = combine;
        onto.y = add.data();
        const std::vector<T> plain_y = y.values(), plain_drows = drows.values();
        under(set, [&] {
          moe_combine(onto);
          moe_combine_backward(over);
        });
        EXPECT_TRUE(same_bits(add.values(), plain_y));
        EXPECT_TRUE(same_bits(rows.values(), plain_drows));
      }
    }
  }
}

TEST(MoeMovement, agrees_with_the_reference) {
  check_movement<float>();
  check_movement<bf16>();
}

TEST(MoeMovement, gather_and_combine_without_weights_count_the_choices) {
  const std::vector<int32_t> indices = some_indices(5, 3, 8);
  const Plan plan(5, 3, 8, indices);
  const std::vector<float> x = random_values<float>(5 * 9, 1);
  for (Isa set : fast_sets()) {
    std::vector<float> rows(15 * 9), y(5 * 9), three(x);
    under(set, [&] {
      moe_gather({DType::f32, 15, 9, x.data(), 9, plan.row_token.data(), rows.data()});
      moe_combine({DType::f32, 5, 3, 9, rows.data(), plan.choice_row.data(), nullptr, nullptr, y.data()});
    });
    for (float& value : three) value *= 3;
    EXPECT_TRUE(close(y, three, Bound{2 * kEpsF32, 0, 1}));
  }
}

}  // namespace
}  // namespace fathom::kernels::testing

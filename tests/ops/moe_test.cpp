#include "ops/moe.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <ATen/ops/mm.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/zeros.h>

#include "ops/grouped_gemm.h"
#include "support/tensors.h"

namespace fathom::ops {
namespace {

using test::ForcedIsa;
using test::normal;
using test::relative_error;

const std::vector<std::vector<int64_t>>& group_lists() {
  static const std::vector<std::vector<int64_t>> lists = {
      {0, 0},       {0, 1},
      {0, 7},       {0, 0, 5, 5, 5, 6, 23, 23},
      {0, 0, 0, 0}, {0, 3, 3, 67, 68, 68, 70, 77, 77, 80, 81, 97, 98}};
  return lists;
}

TEST(GroupedGemm, every_product_as_a_loop_makes_it) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const double bound = dtype == at::kBFloat16 ? 1e-2 : dtype == at::kFloat ? 1e-6 : 1e-14;
    for (const auto& offsets : group_lists()) {
      for (const auto& [in, out] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {9, 20}, {33, 17}}) {
        const auto E = static_cast<int64_t>(offsets.size()) - 1, S = offsets.back();
        const at::Tensor rows = normal({S, in}, "rows", 1, dtype),
                         d_rows = normal({S, out}, "d_rows", 1, dtype);
        const at::Tensor w = normal({E, out, in}, "w", 1, dtype);
        const at::Tensor nt = grouped_mm_nt(rows, w, offsets), nn = grouped_mm_nn(d_rows, w, offsets);
        at::Tensor first = at::empty({E, out, in}, w.options()).fill_(NAN),
                   second = normal({E, out, in}, "sum", 1, dtype);
        const at::Tensor before = second.clone();
        grouped_mm_tn_accumulate(d_rows, rows, offsets, first, true);
        grouped_mm_tn_accumulate(d_rows, rows, offsets, second, false);
        for (int64_t e = 0; e < E; ++e) {
          const int64_t begin = offsets[static_cast<size_t>(e)],
                        count = offsets[static_cast<size_t>(e) + 1] - begin;
          const at::Tensor x = rows.narrow(0, begin, count).to(at::kDouble),
                           dy = d_rows.narrow(0, begin, count).to(at::kDouble);
          const at::Tensor we = w.select(0, e).to(at::kDouble), product = at::mm(dy.t(), x);
          if (count > 0) {
            EXPECT_LT(relative_error(nt.narrow(0, begin, count), at::mm(x, we.t())), bound);
            EXPECT_LT(relative_error(nn.narrow(0, begin, count), at::mm(dy, we)), bound);
            EXPECT_LT(relative_error(first.select(0, e), product), bound);
          } else {
            EXPECT_EQ(test::largest(first.select(0, e)), 0) << "an empty group overwrites with zeros";
          }
          EXPECT_LT(relative_error(second.select(0, e), before.select(0, e).to(at::kDouble) + product),
                    bound);
        }
      }
    }
  }
}

// y and every gradient, token by token.
struct Naive {
  at::Tensor y, dx, d_weights, d_gate_up, d_down;
};

Naive naive(const at::Tensor& x_in, const at::Tensor& weights_in, const at::Tensor& indices,
            const at::Tensor& gate_up_in, const at::Tensor& down_in, const at::Tensor& dy) {
  const auto leaf = [](const at::Tensor& t) {
    return t.detach().to(at::kDouble).clone().requires_grad_(true);
  };
  const at::Tensor x = leaf(x_in), weights = leaf(weights_in), gate_up = leaf(gate_up_in),
                   down = leaf(down_in);
  const int64_t F = gate_up.size(1) / 2;
  at::Tensor total = at::zeros({}, x.options()), all;
  std::vector<at::Tensor> y;
  for (int64_t t = 0; t < x.size(0); ++t) {
    at::Tensor sum = at::zeros({1, x.size(1)}, x.options().requires_grad(false));
    for (int64_t k = 0; k < indices.size(1); ++k) {
      const int64_t e = indices[t][k].item<int>();
      const at::Tensor h = at::mm(x.narrow(0, t, 1), gate_up.select(0, e).t());
      const at::Tensor act = at::silu(h.narrow(1, 0, F)) * h.narrow(1, F, F);
      sum = sum + at::mm(act, down.select(0, e).t()) * weights[t][k];
    }
    total = total + (sum * dy.narrow(0, t, 1).to(at::kDouble)).sum();
    y.push_back(sum.detach());
  }
  total.backward();
  Naive result{at::zeros(x.sizes(), x.options().requires_grad(false)), x.grad(), weights.grad(),
               gate_up.grad(), down.grad()};
  for (size_t t = 0; t < y.size(); ++t) result.y.narrow(0, static_cast<int64_t>(t), 1).copy_(y[t]);
  return result;
}

at::Tensor distinct_choices(int64_t T, int64_t K, int64_t E, int64_t stride) {
  const at::Tensor indices = at::empty({T, K}, at::TensorOptions().dtype(at::kInt));
  for (int64_t t = 0; t < T; ++t)
    for (int64_t k = 0; k < K; ++k)
      indices.mutable_data_ptr<int>()[t * K + k] = static_cast<int>((t * t + k * stride) % E);
  return indices;
}

TEST(MoeExperts, as_token_by_token_with_experts_that_get_none) {
  constexpr int64_t D = 13, F = 7, E = 11;
  for (const kernels::Isa isa : test::bodies()) {
    const ForcedIsa forced(isa);
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
      const double bound = dtype == at::kFloat ? 3e-6 : 1e-13;
      for (const int64_t T : {1, 2, 7}) {
        for (const int64_t K : {1, 3}) {
          SCOPED_TRACE(fmt::format("{} T {} K {}", kernels::name(isa), T, K));
          const at::Tensor indices = distinct_choices(T, K, E, 3), dy = normal({T, D}, "dy", 1, dtype);
          const at::Tensor x = normal({T, D}, "x", 1, dtype).requires_grad_(true);
          const at::Tensor weights = normal({T, K}, "weights", 1, dtype).requires_grad_(true);
          Weight gate_up = test::trained_weight(normal({E, 2 * F, D}, "gate_up", 0.3f, dtype), dtype);
          Weight down = test::trained_weight(normal({E, D, F}, "down", 0.3f, dtype), dtype);
          const Naive expected = naive(x, weights, indices, gate_up.value, down.value, dy);
          const DispatchPlan plan = plan_dispatch(indices, E);
          EXPECT_EQ(plan.offsets.back(), T * K);
          const at::Tensor y = moe_experts(x, weights, plan, gate_up, down);
          EXPECT_LT(relative_error(y.detach(), expected.y), bound);
          (y * dy).sum().backward();
          EXPECT_LT(relative_error(x.grad(), expected.dx), bound);
          EXPECT_LT(relative_error(weights.grad(), expected.d_weights), bound);
          EXPECT_LT(relative_error(gate_up.main_grad, expected.d_gate_up), bound);
          EXPECT_LT(relative_error(down.main_grad, expected.d_down), bound);
          int64_t idle = 0;
          for (int64_t e = 0; e < E; ++e) {
            if (plan.count(e) > 0) continue;
            ++idle;
            EXPECT_EQ(test::largest(gate_up.main_grad.select(0, e)), 0);
            EXPECT_EQ(test::largest(down.main_grad.select(0, e)), 0);
          }
          EXPECT_GT(idle, 0);
          // A second micro-batch adds.
          (moe_experts(x, weights, plan, gate_up, down) * dy).sum().backward();
          EXPECT_LT(relative_error(gate_up.main_grad, expected.d_gate_up * 2), bound);
        }
      }
    }
  }
}

// Rows by expert, then by token.
TEST(MoeExperts, the_dispatch_plan_is_stable) {
  const DispatchPlan plan = plan_dispatch(distinct_choices(40, 3, 11, 3), 11);
  for (int64_t e = 0; e < 11; ++e) {
    for (int64_t row = plan.offsets[static_cast<size_t>(e)]; row < plan.offsets[static_cast<size_t>(e) + 1];
         ++row) {
      const int token = plan.row_token[row].item<int>(), choice = plan.row_choice[row].item<int>();
      EXPECT_EQ(choice / 3, token);
      EXPECT_EQ(plan.choice_row.flatten()[choice].item<int>(), row);
      if (row > plan.offsets[static_cast<size_t>(e)]) {
        EXPECT_LT(plan.row_token[row - 1].item<int>(), token);
      }
    }
  }
}

}  // namespace
}  // namespace fathom::ops

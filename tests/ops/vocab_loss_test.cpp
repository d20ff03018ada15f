#include "ops/vocab_loss.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/tensor.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>

#include "base/error.h"
#include "base/memory.h"
#include "support/tensors.h"

namespace fathom::ops {
namespace {

using test::ForcedIsa;
using test::normal;
using test::relative_error;

at::Tensor some_targets(int64_t T, int64_t V) {
  const at::Tensor targets = at::empty({T}, at::TensorOptions().dtype(at::kLong));
  for (int64_t t = 0; t < T; ++t)
    targets.mutable_data_ptr<int64_t>()[t] = t % 5 == 3 ? kIgnoreTarget : (t * 7919) % V;
  return targets;
}

struct Composed {
  double nll_sum = 0, loss = 0;
  at::Tensor d_hidden, d_head;
};

// Whole logits at once, in double, gradients by autograd.
Composed composed(const at::Tensor& hidden_in, const at::Tensor& head_in, const at::Tensor& targets,
                  double coefficient, double z_loss) {
  const at::Tensor hidden = hidden_in.detach().to(at::kDouble).clone().requires_grad_(true);
  const at::Tensor head = head_in.detach().to(at::kDouble).clone().requires_grad_(true);
  const at::Tensor logits = at::mm(hidden, head.t()), counted = targets.ne(kIgnoreTarget);
  const at::Tensor safe = targets.clamp_min(0).unsqueeze(1);
  const at::Tensor nll = (-at::log_softmax(logits, 1).gather(1, safe).squeeze(1) * counted).sum();
  const at::Tensor loss = coefficient * (nll + z_loss * (logits.logsumexp(1).square() * counted).sum());
  loss.backward();
  return {nll.item<double>(), loss.item<double>(), hidden.grad(), head.grad()};
}

TEST(VocabLoss, NUM_12_the_known_number) {
  for (const kernels::Isa isa : test::bodies()) {
    const ForcedIsa forced(isa);
    Weight head;
    head.value = at::eye(4, at::TensorOptions().dtype(at::kFloat));
    const at::Tensor hidden = at::tensor({0.0f, 1.0f, 2.0f, 3.0f}).view({1, 4});
    EXPECT_NEAR(vocab_loss(hidden, head, at::tensor({int64_t{3}}), 1).nll_sum, 0.4401897, 1e-6)
        << kernels::name(isa);
  }
}

TEST(VocabLoss, loss_and_gradients_as_the_plain_composition) {
  constexpr int64_t D = 24, V = 1003;
  for (const kernels::Isa isa : test::bodies()) {
    const ForcedIsa forced(isa);
    for (const int64_t T : {1, 37}) {
      for (const double z_loss : {0.0, 0.01}) {
        const at::Tensor hidden = normal({T, D}, "hidden").requires_grad_(true), targets = some_targets(T, V);
        Weight head = test::trained_weight(normal({V, D}, "head", 0.3f));
        const double coefficient = 1.0 / 37;
        const Composed expected = composed(hidden, head.value, targets, coefficient, z_loss);
        const VocabLoss loss = vocab_loss(hidden, head, targets, coefficient, z_loss);
        EXPECT_NEAR(loss.nll_sum, expected.nll_sum, 1e-6 * expected.nll_sum) << kernels::name(isa);
        EXPECT_NEAR(loss.loss.item<double>(), expected.loss, 1e-6 * expected.loss);
        EXPECT_EQ(loss.num_targets, targets.ne(kIgnoreTarget).sum().item<int64_t>());
        loss.loss.backward();
        EXPECT_LT(relative_error(hidden.grad(), expected.d_hidden), 1e-6) << kernels::name(isa);
        EXPECT_LT(relative_error(head.main_grad, expected.d_head), 1e-6);
        const at::Tensor log_probs = target_log_probs(hidden, head, targets);
        EXPECT_NEAR(-log_probs.sum().item<double>(), expected.nll_sum, 1e-6 * expected.nll_sum);
      }
    }
  }
}

TEST(VocabLoss, ignored_targets_have_exactly_no_loss_and_no_gradient) {
  for (const kernels::Isa isa : test::bodies()) {
    const ForcedIsa forced(isa);
    const at::Tensor hidden = normal({9, 8}, "hidden").requires_grad_(true);
    Weight head = test::trained_weight(normal({33, 8}, "head"));
    const at::Tensor targets = at::full({9}, kIgnoreTarget, at::TensorOptions().dtype(at::kLong));
    const VocabLoss none = vocab_loss(hidden, head, targets, 0.5, 0.1);
    none.loss.backward();
    EXPECT_EQ(none.loss.item<double>(), 0) << kernels::name(isa);
    EXPECT_EQ(none.nll_sum, 0);
    EXPECT_EQ(none.num_targets, 0);
    EXPECT_EQ(test::largest(hidden.grad()), 0);
    EXPECT_EQ(test::largest(head.main_grad), 0);
  }
}

// Ignored rows may hold anything, the others do not see it.
TEST(VocabLoss, ignored_rows_with_infinities_are_inert) {
  for (const kernels::Isa isa : test::bodies()) {
    const ForcedIsa forced(isa);
    at::Tensor hidden = normal({4, 8}, "hidden");
    hidden[2].fill_(1e30f);
    Weight head = test::trained_weight(normal({33, 8}, "head"));
    const at::Tensor targets = at::tensor({int64_t{1}, int64_t{32}, kIgnoreTarget, int64_t{0}});
    hidden.requires_grad_(true);
    const VocabLoss loss = vocab_loss(hidden, head, targets, 1);
    loss.loss.backward();
    EXPECT_TRUE(std::isfinite(loss.nll_sum)) << kernels::name(isa);
    EXPECT_EQ(test::largest(hidden.grad()[2]), 0);
    EXPECT_TRUE(std::isfinite(test::largest(head.main_grad))) << kernels::name(isa);
  }
}

TEST(VocabLoss, a_factor_on_the_loss_is_refused) {
  const at::Tensor hidden = normal({4, 8}, "hidden").requires_grad_(true);
  Weight head = test::trained_weight(normal({33, 8}, "head"));
  const VocabLoss loss = vocab_loss(hidden, head, some_targets(4, 33), 1);
  EXPECT_THAT([&] { (loss.loss * 0.5).backward(); },
              testing::ThrowsMessage<NumericError>(
                  testing::AllOf(testing::HasSubstr("0.5"), testing::HasSubstr("coefficient"))));
}

TEST(VocabLoss, without_gradients_none_are_made) {
  const at::Tensor hidden = normal({4, 8}, "hidden");
  Weight head = test::trained_weight(normal({33, 8}, "head"));
  const VocabLoss loss = vocab_loss(hidden, head, some_targets(4, 33), 1);
  EXPECT_FALSE(loss.loss.requires_grad());
  EXPECT_TRUE(head.main_grad_empty);
}

// The largest anonymous memory seen while `work` ran, above that at its start.
uint64_t extra_memory(const std::function<void()>& work) {
  const uint64_t before = anonymous_resident_bytes();
  std::atomic<bool> done{false};
  uint64_t peak = before;
  std::thread watcher([&] {
    while (!done) {
      peak = std::max(peak, anonymous_resident_bytes());
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  work();
  done = true;
  watcher.join();
  return peak - before;
}

TEST(VocabLoss, MEM_1_the_logits_of_a_batch_never_exist) {
  constexpr int64_t T = 4096, D = 64, V = 129280;
  const at::Tensor hidden = normal({T, D}, "hidden").requires_grad_(true), targets = some_targets(T, V);
  Weight head = test::trained_weight(normal({V, D}, "head", 0.1f));
  VocabLoss loss;
  const uint64_t extra = extra_memory([&] {
    loss = vocab_loss(hidden, head, targets, 1.0 / T);
    loss.loss.backward();
  });
  EXPECT_LT(extra, 300ull << 20) << "4096 x 129280 floats are 1.97 GiB";
  EXPECT_EQ(loss.num_targets, 3277);
  // Some rows in double over the whole vocabulary.
  const at::Tensor log_p = target_log_probs(hidden, head, targets);
  EXPECT_NEAR(loss.nll_sum, -log_p.sum(at::kDouble).item<double>(), 1e-6 * loss.nll_sum);
  for (const int64_t first : {int64_t{0}, int64_t{2040}, T - 8}) {
    const at::Tensor h = hidden.detach().narrow(0, first, 8), t = targets.narrow(0, first, 8);
    const Composed expected = composed(h, head.value, t, 1.0 / T, 0);
    EXPECT_LT(relative_error(hidden.grad().narrow(0, first, 8), expected.d_hidden), 1e-6) << first;
    EXPECT_NEAR(-log_p.narrow(0, first, 8).sum().item<double>(), expected.nll_sum, 1e-6 * expected.nll_sum);
  }
  // Some rows of the head over the whole batch; the log-sum-exp of each token follows from its target's log p.
  constexpr int64_t kRows = 200, kFirst = 100'000;
  const at::Tensor h = hidden.detach().to(at::kDouble), counted = targets.ne(kIgnoreTarget);
  const at::Tensor target_rows = head.value.index_select(0, targets.clamp_min(0)).to(at::kDouble);
  const at::Tensor lse = (h * target_rows).sum(1) - log_p.to(at::kDouble);
  const at::Tensor rows = head.value.narrow(0, kFirst, kRows).to(at::kDouble);
  at::Tensor d = (at::mm(h, rows.t()) - lse.unsqueeze(1)).exp() * counted.unsqueeze(1);
  for (int64_t t = 0; t < T; ++t) {
    const int64_t target = targets.const_data_ptr<int64_t>()[t];
    if (target >= kFirst && target < kFirst + kRows)
      d.mutable_data_ptr<double>()[t * kRows + target - kFirst] -= 1;
  }
  EXPECT_LT(relative_error(head.main_grad.narrow(0, kFirst, kRows), at::mm(d.t(), h) / T), 1e-6);
}

}  // namespace
}  // namespace fathom::ops

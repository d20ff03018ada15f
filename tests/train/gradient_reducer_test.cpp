// Gradients summed over real ranks, against one process that sees all micro-batches.
#include "train/gradient_reducer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "ops/runtime.h"
#include "parallel/ranks.h"
#include "support/tensors.h"
#include "support/tiny_training.h"
#include "train/optimizer.h"

namespace fathom::train {
namespace {

using config::Precision;
using parallel::Dimension;
using parallel::World;

constexpr int64_t kMicroBatches = 5;  // no multiple of 2, 3 or 4

weights::Sharding sharding(World& world, int64_t zero) {
  const weights::Replica replica{world.place(Dimension::replica), world.layout().size(Dimension::replica)};
  return {replica, replica, zero >= 1, zero >= 2};
}

CopyHolders beside(World& world) {
  return {&world.beside(Dimension::replica), &world.beside(Dimension::expert_data),
          &world.beside(Dimension::replica)};
}
CopyHolders along(World& world) {
  return {&world.along(Dimension::replica), &world.along(Dimension::expert_data),
          &world.along(Dimension::replica), &world.along(Dimension::world)};
}

void run_micro_batch(test::TinyTraining& tiny, int64_t number) {
  const std::vector<model::Window> windows = test::some_windows(kMicroBatches, 9, 37);
  const std::vector<model::Window> one = {windows[static_cast<size_t>(number)]};
  model::LossCoefficients coefficients;
  coefficients.main = 0.02;
  coefficients.mtp = {0.01, 0.005};
  coefficients.balance = 0.01;
  tiny.model.loss(model::make_micro_batch(one, 2), coefficients, {}, true).total.backward();
}

// One thread a rank.
void run_ranks(int64_t ranks, const std::function<bool(World&)>& body) {
  parallel::run_ranks(parallel::data_ranks(ranks), [&](World& world) {
    ops::initialize_runtime(1);
    return body(world);
  });
}

// One step on every rank; micro-batch i is rank i modulo their number's.
struct RankStep {
  RankStep(World& world, Precision precision, int64_t zero, bool is_overlapped)
      : tiny(test::lively_model(), precision, sharding(world, zero)),
        reducer(tiny.registry, beside(world), is_overlapped) {
    const int64_t place = world.rank(), size = world.size();
    const int64_t own = (kMicroBatches - place + size - 1) / size;
    for (int step = 0; step < 2; ++step) {  // the second must find nothing of the first
      tiny.registry.clear_grads();
      reducer.begin_step(own, (kMicroBatches + size - 1) / size);
      for (int64_t i = place; i < kMicroBatches; i += size) {
        run_micro_batch(tiny, i);
        reducer.end_micro_batch();
      }
      reducer.finish();
    }
  }
  test::TinyTraining tiny;
  GradientReducer reducer;
};

bool holds_the_sums(World& world, Precision precision, int64_t zero, double bound) {
  test::TinyTraining alone(test::lively_model(), precision);
  for (int64_t i = 0; i < kMicroBatches; ++i) run_micro_batch(alone, i);
  RankStep step(world, precision, zero, true), plain(world, precision, zero, false);
  for (size_t i = 0; i < alone.registry.parameters().size(); ++i) {
    const weights::Parameter &expected = alone.registry.parameters()[i],
                             &p = step.tiny.registry.parameters()[i],
                             &q = plain.tiny.registry.parameters()[i];
    if (!p.is_trained() || p.share.empty()) continue;
    const at::Tensor part = expected.main_grad.view({-1}).narrow(0, p.share.begin, p.share.count());
    if (test::largest(part) > 0) {
      EXPECT_LT(test::relative_error(p.grad_share, part), bound) << p.label;
    } else {
      EXPECT_EQ(test::largest(p.grad_share), 0) << p.label;
    }
    EXPECT_TRUE(at::equal(p.grad_share, q.grad_share)) << p.label << ": overlapped sums have other bits";
    if (zero == 0 && test::largest(expected.main_grad) > 0) {
      EXPECT_LT(test::relative_error(p.main_grad, expected.main_grad), bound) << p.label;
    }
  }
  Optimizer expected_norm(alone.registry, {}), norm(step.tiny.registry, {}, along(world));
  EXPECT_NEAR(norm.grad_norm().norm / expected_norm.grad_norm().norm, 1, bound);
  return true;
}

class Reducer : public ::testing::TestWithParam<std::tuple<int64_t, int64_t>> {};

TEST_P(Reducer, sums_are_those_of_one_rank) {
  const auto [ranks, zero] = GetParam();
  run_ranks(ranks, [zero = zero](World& world) {
    return holds_the_sums(world, Precision::fp64, zero, 1e-12) &&
           holds_the_sums(world, Precision::bf16, zero, 1e-5);
  });
}

INSTANTIATE_TEST_SUITE_P(ranks_and_zero, Reducer,
                         ::testing::Combine(::testing::Values(2, 3), ::testing::Values(0, 1, 2)));

// More ranks than micro-batches, and gradients kept in bfloat16.
TEST(GradientReducer, a_rank_without_a_micro_batch_takes_part) {
  run_ranks(6, [](World& world) {
    return holds_the_sums(world, Precision::fp64, 1, 1e-12) &&
           holds_the_sums(world, Precision::bf16_pure, 2, 0.02);
  });
}

// parallel.zero 0, 1 and 2 (with one micro-batch a rank) take the very same steps.
TEST(GradientReducer, every_zero_steps_to_the_same_bits) {
  run_ranks(2, [](World& world) {
    std::vector<std::string> weights;
    for (const int64_t zero : {0, 1, 2}) {
      test::TinyTraining tiny(test::lively_model(), Precision::bf16, sharding(world, zero));
      GradientReducer reducer(tiny.registry, beside(world));
      Optimizer optimizer(tiny.registry, {}, along(world));
      for (int step = 1; step <= 3; ++step) {
        tiny.registry.clear_grads();
        reducer.begin_step(1, 1);
        run_micro_batch(tiny, world.rank());
        reducer.end_micro_batch();
        reducer.finish();
        optimizer.step(1e-2, step, 1 / (1 + optimizer.grad_norm().norm));
      }
      std::string bits;
      for (const weights::Parameter& p : tiny.registry.parameters())
        bits.append(static_cast<const char*>(p.value.const_data_ptr()), p.value.nbytes());
      weights.push_back(bits);
    }
    EXPECT_TRUE(weights[0] == weights[1]);
    EXPECT_TRUE(weights[0] == weights[2]);
    return true;
  });
}

// What ZeRO-2 saves, counted in bytes of tensors: whole gradients are those of embedding, head and last norm, the layer
// that is computed, and two that travel.
TEST(GradientReducer, sharded_gradients_are_never_whole_together) {
  config::ModelConfig model = test::lively_model();
  model.num_hidden_layers = 12;
  model.num_nextn_predict_layers = 0;
  run_ranks(2, [&](World& world) {
    test::TinyTraining whole(model, Precision::fp32, sharding(world, 1));
    test::TinyTraining tiny(model, Precision::fp32, sharding(world, 2));
    GradientReducer reducer(tiny.registry, beside(world));
    int64_t outside = 0, layer = 0;
    for (const weights::Parameter& p : tiny.registry.parameters()) {
      if (!p.is_trained()) continue;
      const int64_t at = p.pieces.front().spec->layer;
      if (at < 0) outside += static_cast<int64_t>(p.value.nbytes());
      if (at == 1) layer += static_cast<int64_t>(p.value.nbytes());
    }
    reducer.begin_step(1, 1);
    const std::vector<model::Window> windows = test::some_windows(1, 9, 37);
    model::LossCoefficients coefficients;
    coefficients.main = 0.1;
    tiny.model.loss(model::make_micro_batch(windows, 0), coefficients, {}, true).total.backward();
    reducer.end_micro_batch();
    reducer.finish();
    const int64_t everything = whole.registry.held_bytes().gradients;
    EXPECT_GT(reducer.peak_gradient_bytes(), 0);
    EXPECT_LE(reducer.peak_gradient_bytes(), outside + 3 * layer);
    const int64_t held = tiny.registry.held_bytes().gradients;
    EXPECT_LT(held, everything * 51 / 100 + 64 * 4);
    EXPECT_LT(held + reducer.peak_gradient_bytes(), everything * 85 / 100);
    return true;
  });
}

}  // namespace
}  // namespace fathom::train

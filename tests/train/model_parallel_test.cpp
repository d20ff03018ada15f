// A model over several ranks against the same model on one: losses, loads and every gradient, in double.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <memory>
#include <span>

#include "ops/runtime.h"
#include "ops/vocab_loss.h"
#include "parallel/ranks.h"
#include "support/tensors.h"
#include "support/tiny_training.h"
#include "train/data_parallel.h"
#include "train/gradient_reducer.h"
#include "train/optimizer.h"
#include "train/pipeline.h"

namespace fathom::train {
namespace {

using config::Precision;
using parallel::Dimension;
using parallel::World;

constexpr int64_t kDepths = 2;

struct Layout {
  int64_t data = 1, tensor = 1, pipeline = 1, expert = 1;
  const char* schedule = "1f1b";
  std::vector<int64_t> layer_offset = {};
};

config::Recipe recipe_of(const Layout& layout, const config::ModelConfig& model,
                         const config::RecomputeSection& recompute) {
  config::Recipe recipe;
  recipe.model = model;
  recipe.parallel.data = layout.data;
  recipe.parallel.tensor = layout.tensor;
  recipe.parallel.pipeline = layout.pipeline;
  recipe.parallel.expert = layout.expert;
  recipe.parallel.schedule = layout.schedule;
  recipe.parallel.layer_offset = layout.layer_offset;
  recipe.parallel.timeout_s = 60;
  recipe.train.recompute = recompute;
  return recipe;
}

void set_biases(weights::ParameterRegistry& registry) {
  for (weights::Parameter& p : registry.parameters()) {
    if (!p.is_router_bias) continue;
    for (int64_t e = 0; e < p.numel(); ++e)
      p.value.view({-1})[e] = 0.02 * static_cast<double>((e * 7) % 5) - 0.04;
  }
}

std::unique_ptr<weights::ParameterRegistry> empty_registry(const config::ModelConfig& config,
                                                           const weights::Sharding& sharding = {}) {
  return std::make_unique<weights::ParameterRegistry>(config, Precision::fp64, c10::kCPU, true, sharding);
}

weights::Sharding no_sharding(World& world) {
  const auto replica = [&](Dimension d) { return weights::Replica{world.place(d), world.layout().size(d)}; };
  return {replica(Dimension::stage), replica(Dimension::expert_data), false, false,
          replica(Dimension::replica)};
}

CopyHolders holders_of(World& world) {
  return {&world.along(Dimension::stage), &world.along(Dimension::expert_data),
          &world.along(Dimension::replica), &world.along(Dimension::world)};
}

void start(weights::ParameterRegistry& registry) {
  registry.initialize(5);
  registry.allocate_grads();
  set_biases(registry);
}

model::LossCoefficients coefficients(double targets, double sequences) {
  model::LossCoefficients c;
  c.main = 1 / targets;
  c.mtp = {0.15 / targets, 0.15 / targets};
  c.balance = 0.01 / sequences;
  c.z_loss = 0.001;
  return c;
}

// The part of a whole tensor, laid out as HF has it, that a piece holds.
at::Tensor part_of(const at::Tensor& whole, const weights::Piece& piece) {
  at::Tensor part = at::zeros({piece.numel()}, whole.options());
  const at::Tensor flat = whole.contiguous().view({-1});
  piece.for_each_run([&](int64_t global, int64_t local, int64_t count) {
    part.narrow(0, local, count).copy_(flat.narrow(0, global, count));
  });
  return part;
}

void expect_equal(const weights::ParameterRegistry& many, weights::ParameterRegistry& one) {
  int64_t compared = 0;
  for (const weights::Parameter& parameter : many.parameters()) {
    for (const weights::Piece& piece : parameter.pieces) {
      const auto [whole, whole_piece] = one.find(piece.spec->name);
      for (const bool is_grad : {false, true}) {
        if (is_grad && (parameter.is_router_bias || parameter.is_follower)) continue;
        const at::Tensor expected =
            part_of(whole->piece_of(is_grad ? whole->main_grad : whole->value, *whole_piece), piece);
        const at::Tensor actual = parameter.piece_of(is_grad ? parameter.main_grad : parameter.value, piece)
                                      .contiguous()
                                      .view({-1});
        EXPECT_LT(test::largest(expected - actual), 1e-10 + 1e-8 * test::largest(expected))
            << piece.spec->name << (is_grad ? " gradient" : " value");
        compared += piece.numel();
      }
    }
  }
  EXPECT_GT(compared, 1000);
}

void expect_as_one(const Layout& layout, const config::ModelConfig& config,
                   const config::RecomputeSection& recompute = {}, int64_t seq_length = 7) {
  const config::Recipe recipe = recipe_of(layout, config, recompute);
  parallel::run_ranks(recipe.parallel, [&](World& world) {
    ops::initialize_runtime(1);
    const int64_t micros = 4 * layout.data;  // enough for every schedule here
    const auto windows = test::some_windows(micros * 2, seq_length, config.vocab_size);
    std::vector<model::MicroBatch> all, mine;
    for (int64_t m = 0; m < micros; ++m) {
      all.push_back(model::make_micro_batch(
          {windows[static_cast<size_t>(2 * m)], windows[static_cast<size_t>(2 * m + 1)]}, kDepths));
      if (m % layout.data == world.place(Dimension::data)) mine.push_back(all.back());
    }
    const model::LossCoefficients c =
        coefficients(static_cast<double>(micros * 2 * seq_length), static_cast<double>(micros * 2));

    const auto one_registry = empty_registry(config);
    model::DeepseekModel one(*one_registry);
    start(*one_registry);
    LossSums whole;
    for (const model::MicroBatch& batch : all) {
      const model::LossReport report = one.loss(batch, c, recompute, true);
      report.total.backward();
      whole.nll += report.nll_sum;
      whole.balance += report.balance_loss;
    }

    const auto many_registry = empty_registry(config, no_sharding(world));
    Pipeline many(*many_registry, recipe, world);
    start(*many_registry);
    GradientReducer reducer(*many_registry, holders_of(world), /*is_overlapped=*/false);
    many.take_over_sinks();
    const auto count = static_cast<int64_t>(mine.size());
    reducer.begin_step(count, count);
    const LossSums sums = many.train(mine, c, [&] { reducer.end_micro_batch(); });
    reducer.finish();
    const std::vector<LayerCounts> loads = sum_loads(many.moe_layers(), config, world);
    std::vector<double> totals = {sums.nll, sums.balance};
    for (const Dimension d : {Dimension::data, Dimension::pipeline})
      world.along(d).all_reduce(std::span(totals));
    EXPECT_NEAR(totals[0], whole.nll, 1e-9);
    EXPECT_NEAR(totals[1], whole.balance, 1e-11);
    EXPECT_EQ(loads.size(), one.moe_layers().size());
    for (size_t l = 0; l < loads.size(); ++l) EXPECT_EQ(loads[l].tokens, one.moe_layers()[l]->load());
    expect_equal(*many_registry, *one_registry);
    Optimizer one_optimizer(*one_registry, {}), many_optimizer(*many_registry, {}, holders_of(world));
    const double norm = one_optimizer.grad_norm().norm;  // PAR-3
    EXPECT_NEAR(many_optimizer.grad_norm().norm, norm, 1e-10 * norm);
    // A step, and what the last stage sees of the embedding behind it.
    one_optimizer.step(1e-3, 1, 0.5);
    many_optimizer.step(1e-3, 1, 0.5);
    many.fetch_values();

    at::NoGradGuard no_grad;  // held-out loss
    double nll = many.evaluate(all.front()).nll_sum;
    world.along(Dimension::pipeline).all_reduce(std::span(&nll, 1));
    EXPECT_NEAR(nll, one.loss(all.front(), {}, {}, false).nll_sum, 1e-9);
    return true;
  });
}

config::ModelConfig model_of(int64_t heads) {
  config::ModelConfig config = test::lively_model();
  config.num_attention_heads = heads;
  return config;
}

TEST(ModelParallel, tensor_ranks_are_one_rank) {
  expect_as_one({.tensor = 2}, model_of(4));
  expect_as_one({.tensor = 4}, model_of(4));
}

TEST(ModelParallel, fewer_tokens_than_ranks_and_an_uneven_vocabulary) {
  config::ModelConfig config = model_of(4);
  config.vocab_size += 3;
  expect_as_one({.tensor = 4}, config, {}, 1);
}

TEST(ModelParallel, expert_ranks_are_one_rank) {
  expect_as_one({.data = 2, .expert = 2}, model_of(4));
  expect_as_one({.data = 4, .expert = 4}, model_of(4), {}, 3);
}

TEST(ModelParallel, experts_are_folded_out_of_data_and_tensor) {
  expect_as_one({.data = 2, .tensor = 2, .expert = 2}, model_of(4));
  expect_as_one({.data = 2, .tensor = 2, .expert = 4}, model_of(4));
  expect_as_one({.tensor = 2, .expert = 2}, model_of(4));
}

TEST(ModelParallel, recompute_changes_nothing) {
  config::RecomputeSection recompute;
  recompute.kind = config::RecomputeKind::full;
  expect_as_one({.data = 2, .tensor = 2, .expert = 4}, model_of(4), recompute);
  recompute.kind = config::RecomputeKind::selective;
  expect_as_one({.tensor = 2, .expert = 2}, model_of(4), recompute);
  recompute.kind = config::RecomputeKind::per_stage;
  recompute.layers = {1, 2};
  expect_as_one({.pipeline = 2}, model_of(4), recompute);
}

TEST(ModelParallel, without_query_compression) {
  config::ModelConfig config = model_of(4);
  config.q_lora_rank = 0;
  expect_as_one({.tensor = 2}, config);
}

TEST(ModelParallel, every_schedule_is_one_rank) {
  config::ModelConfig config = model_of(4);
  config.num_hidden_layers = 6;
  for (const char* schedule : {"1f1b", "interleaved_1f1b", "zero_bubble", "dualpipe_v"}) {
    SCOPED_TRACE(schedule);
    expect_as_one({.pipeline = 2, .schedule = schedule}, config);
  }
  expect_as_one({.pipeline = 4, .schedule = "1f1b"}, config);
  expect_as_one({.pipeline = 4, .schedule = "zero_bubble"}, config);
}

// An expert that no token of any rank chooses, and routing that leaves one rank's experts idle.
TEST(ModelParallel, PAR_1_experts_without_tokens) {
  config::ModelConfig config = model_of(4);
  config.n_routed_experts = 16;
  config.n_group = 4;
  expect_as_one({.data = 2, .tensor = 2, .expert = 4}, config, {}, 1);
}

TEST(ModelParallel, PAR_4_layers_that_do_not_divide) {
  config::ModelConfig config = model_of(2);
  config.num_hidden_layers = 5;  // and two of MTP
  for (const int64_t stages : {2, 3}) expect_as_one({.pipeline = stages}, config);
  expect_as_one({.pipeline = 4, .layer_offset = {-1, 0, 0, 1}}, config);  // the last one has both MTP modules
}

TEST(ModelParallel, PAR_5_stages_without_a_layer) {
  config::ModelConfig config = model_of(2);
  config.num_hidden_layers = 2;
  // embedding | 1 | 1 | MTP, MTP and the losses
  expect_as_one({.pipeline = 4, .layer_offset = {-1, 0, 0, 1}}, config);
}

TEST(ModelParallel, all_dimensions_at_once) {
  expect_as_one({.data = 2, .tensor = 2, .pipeline = 2, .expert = 4, .schedule = "zero_bubble"}, model_of(4));
}

}  // namespace
}  // namespace fathom::train

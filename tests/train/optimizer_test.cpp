// The optimizer over a registry against the plain formula in double (arXiv 1711.05101, torch.optim.AdamW).
#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"
#include "support/tiny_registry.h"

namespace fathom::train {
namespace {

using config::Precision;

constexpr double kLr = 0.01;

struct Plain {
  std::vector<double> p, m, v;
};

std::vector<double> doubles(const at::Tensor& t) {
  const at::Tensor wide = t.to(at::kDouble).contiguous();
  return {wide.const_data_ptr<double>(), wide.const_data_ptr<double>() + wide.numel()};
}

std::vector<double> masters(const weights::ParameterRegistry& registry, const weights::Parameter& p) {
  if (p.value.scalar_type() == at::kDouble) return doubles(p.value);
  std::vector<double> all;
  for (const weights::Piece& piece : p.pieces) {
    std::vector<float> values(static_cast<size_t>(piece.numel()));
    registry.get_master(p, piece, values.data());
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

const std::string& name_of(const weights::Parameter& p) { return p.pieces.front().spec->name; }

void set_grads(weights::ParameterRegistry& registry, uint64_t step) {
  for (weights::Parameter& p : registry.parameters()) {
    if (p.is_router_bias) continue;
    at::Tensor grad = at::empty(p.shape, at::TensorOptions().dtype(at::kFloat));
    fill_normal(stream_key(step, name_of(p)), 0, p.numel(), 0, 0.5f, grad.mutable_data_ptr<float>());
    p.add_grad(grad);
  }
}

struct Case {
  const char* name;
  Precision precision;
  config::StateDtype state;
  double bound;  // of |step| a step: rounding of parameter and moments
  config::StateDtype grad = config::StateDtype::fp32;
};

class OptimizerCase : public testing::TestWithParam<Case> {};

TEST_P(OptimizerCase, follows_the_plain_formula) {
  const auto registry = test::tiny_registry(test::tiny_model(), GetParam().precision);
  registry->initialize(3);
  registry->allocate_grads(GetParam().grad);
  config::OptimizerSection section;
  section.state_dtype = GetParam().state;
  Optimizer optimizer(*registry, section);
  std::map<std::string, Plain> plain;
  for (const weights::Parameter& p : registry->parameters())
    plain[name_of(p)] = {masters(*registry, p), std::vector<double>(static_cast<size_t>(p.numel())),
                         std::vector<double>(static_cast<size_t>(p.numel()))};
  constexpr int kSteps = 3;
  for (int step = 1; step <= kSteps; ++step) {
    registry->clear_grads();
    set_grads(*registry, static_cast<uint64_t>(step));
    const double scale = step == 2 ? 0.25 : 1;
    for (const weights::Parameter& p : registry->parameters()) {
      if (p.is_router_bias) continue;
      Plain& x = plain[name_of(p)];
      const std::vector<double> grads = doubles(p.main_grad);
      const double decay = p.value.dim() > 1 ? section.weight_decay : 0;  // norms are vectors
      for (size_t i = 0; i < grads.size(); ++i) {
        const double g = grads[i] * scale;
        x.p[i] -= kLr * decay * x.p[i];
        x.m[i] = section.beta1 * x.m[i] + (1 - section.beta1) * g;
        x.v[i] = section.beta2 * x.v[i] + (1 - section.beta2) * g * g;
        x.p[i] -= kLr / (1 - std::pow(section.beta1, step)) * x.m[i] /
                  (std::sqrt(x.v[i]) / std::sqrt(1 - std::pow(section.beta2, step)) + section.eps);
      }
    }
    optimizer.step(kLr, step, scale);
  }
  for (const weights::Parameter& p : registry->parameters()) {
    const std::vector<double> found = masters(*registry, p);
    const Plain& expected = plain[name_of(p)];
    double worst = 0;
    for (size_t i = 0; i < found.size(); ++i)
      worst = std::max(
          worst,
          std::abs(found[i] - expected.p[i]) -
              (GetParam().precision == Precision::bf16_pure ? kSteps * 0x1p-8 * std::abs(expected.p[i]) : 0));
    EXPECT_LT(worst, GetParam().bound * kLr * kSteps) << p.label;
    if (p.is_router_bias) {
      EXPECT_EQ(worst, 0) << "the balance rule moves it, not the optimizer";
    }
    // The working weight is the master, rounded.
    if (GetParam().precision == Precision::bf16) {
      for (size_t i = 0; i < found.size(); ++i) {
        ASSERT_LE(std::abs(doubles(p.value)[i] - found[i]), 0x1p-8 * std::abs(found[i])) << p.label;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Precisions, OptimizerCase,
    testing::Values(Case{"fp32", Precision::fp32, config::StateDtype::fp32, 1e-4},
                    Case{"fp32_bf16_state", Precision::fp32, config::StateDtype::bf16, 2e-2},
                    Case{"bf16_split_masters", Precision::bf16, config::StateDtype::fp32, 1e-4},
                    Case{"bf16_bf16_state", Precision::bf16, config::StateDtype::bf16, 2e-2},
                    Case{"bf16_bf16_grads", Precision::bf16, config::StateDtype::fp32, 1e-4,
                         config::StateDtype::bf16},
                    Case{"bf16_pure", Precision::bf16_pure, config::StateDtype::fp32, 2e-2},
                    Case{"fp64", Precision::fp64, config::StateDtype::fp32, 1e-12}),
    [](const auto& info) { return std::string(info.param.name); });

// Steps far below bf16's resolution add up in the masters.
TEST(Optimizer, split_masters_keep_small_steps) {
  const auto registry = test::tiny_registry(test::tiny_model(), Precision::bf16);
  registry->initialize(3);
  registry->allocate_grads();
  Optimizer optimizer(*registry, {});
  auto [norm, piece] = registry->find("model.norm.weight");
  for (int step = 1; step <= 100; ++step) {
    registry->clear_grads();
    norm->add_grad(at::full(norm->shape, 1.0));
    optimizer.step(1e-5, step, 1);  // moves by lr: 100 steps of 1e-5 under a value of 1
  }
  for (const double value : masters(*registry, *norm)) EXPECT_NEAR(value, 1 - 1e-3, 2e-5);
}

TEST(Optimizer, norms_and_biases_are_not_decayed) {
  const auto registry = test::tiny_registry(test::tiny_model(), Precision::fp32);
  registry->initialize(3);
  registry->allocate_grads();
  std::map<std::string, std::vector<double>> before;
  for (const weights::Parameter& p : registry->parameters()) before[name_of(p)] = masters(*registry, p);
  config::OptimizerSection section;
  section.weight_decay = 0.5;
  Optimizer optimizer(*registry, section);
  optimizer.step(0.1, 1, 1);  // no gradient at all: what moves is decay
  int decayed = 0, kept = 0;
  for (const weights::Parameter& p : registry->parameters()) {
    const std::vector<double> after = masters(*registry, p);
    const bool is_vector = p.value.dim() == 1;
    for (size_t i = 0; i < after.size(); ++i)
      EXPECT_NEAR(after[i], before[name_of(p)][i] * (is_vector ? 1 : 0.95), 1e-7) << p.label;
    ++(is_vector ? kept : decayed);
  }
  EXPECT_GT(decayed, 10);
  EXPECT_GT(kept, 10);
}

TEST(Optimizer, the_norm_is_over_what_received_gradients) {
  const auto registry = test::tiny_registry(test::tiny_model(), Precision::fp32);
  registry->initialize(3);
  registry->allocate_grads();
  const Optimizer optimizer(*registry, {});
  for (weights::Parameter& p : registry->parameters())
    if (p.is_trained()) p.main_grad.fill_(NAN);  // marked empty: never read
  EXPECT_EQ(optimizer.grad_norm().norm, 0);
  EXPECT_TRUE(optimizer.grad_norm().is_finite);
  auto [norm, piece] = registry->find("model.norm.weight");
  norm->add_grad(at::full(norm->shape, 2.0));
  auto [head, head_piece] = registry->find("lm_head.weight");
  head->add_grad(at::full(head->shape, -1.0));
  const double expected =
      std::sqrt(4.0 * static_cast<double>(norm->numel()) + static_cast<double>(head->numel()));
  EXPECT_NEAR(optimizer.grad_norm().norm, expected, 1e-12 * expected);
  head->main_grad.view({-1})[5] = INFINITY;
  EXPECT_FALSE(optimizer.grad_norm().is_finite);
  head->main_grad.view({-1})[5] = NAN;
  EXPECT_FALSE(optimizer.grad_norm().is_finite);
  // Large but finite: squares are summed in double.
  head->main_grad.fill_(1e30f);
  EXPECT_TRUE(optimizer.grad_norm().is_finite);
  EXPECT_NEAR(optimizer.grad_norm().norm / (1e30 * std::sqrt(static_cast<double>(head->numel()))), 1, 1e-6);
}

}  // namespace
}  // namespace fathom::train

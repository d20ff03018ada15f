// The whole model's loss and gradients: finite differences in double, what gets a gradient and what none,
// recompute.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "ops/recompute.h"
#include "ops/vocab_loss.h"
#include "support/tensors.h"
#include "support/tiny_training.h"

namespace fathom::model {
namespace {

using config::Precision;
using test::TinyTraining;

constexpr int64_t kDepths = 2;

LossCoefficients coefficients_of(const MicroBatch& batch) {
  const auto count = [](const at::Tensor& t) {
    return std::max<double>(1, t.ne(ops::kIgnoreTarget).sum().item<double>());
  };
  LossCoefficients c;
  c.main = 1 / count(batch.targets);
  for (const at::Tensor& targets : batch.mtp_targets) c.mtp.push_back(0.3 / kDepths / count(targets));
  c.balance = 0.01 / static_cast<double>(batch.num_sequences);
  c.z_loss = 0.001;
  return c;
}

double loss_of(TinyTraining& tiny, const MicroBatch& batch) {
  at::NoGradGuard no_grad;  // else the head's gradient would be added to
  return tiny.model.loss(batch, coefficients_of(batch), {}, false).total.item<double>();
}

std::vector<at::Tensor> routes_of(TinyTraining& tiny) {
  std::vector<at::Tensor> routes;
  for (Moe* moe : tiny.model.moe_layers()) routes.push_back(moe->last_indices().clone());
  return routes;
}

TEST(Gradients, NUM_9_an_expert_has_one_iff_it_got_tokens) {
  for (const Precision precision : {Precision::fp32, Precision::bf16, Precision::fp64}) {
    config::ModelConfig config = test::lively_model();
    config.n_routed_experts = 16;
    TinyTraining tiny(config, precision);
    const MicroBatch batch = make_micro_batch(test::some_windows(1, 5, config.vocab_size), kDepths);
    tiny.model.loss(batch, coefficients_of(batch), {}, true).total.backward();
    int busy = 0, idle = 0;
    for (Moe* moe : tiny.model.moe_layers()) {
      for (int64_t e = 0; e < config.n_routed_experts; ++e) {
        for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
          const std::string name = config::layer_prefix(moe->layer()) + "mlp.experts." + std::to_string(e) +
                                   "." + part + ".weight";
          const auto [parameter, piece] = tiny.registry.find(name);
          ASSERT_FALSE(parameter->main_grad_empty);
          const double largest = test::largest(parameter->piece_of(parameter->main_grad, *piece));
          const bool got_tokens = moe->load()[static_cast<size_t>(e)] > 0;
          if (moe->layer() < config.num_hidden_layers) {
            EXPECT_EQ(largest > 0, got_tokens) << name;
          } else if (!got_tokens) {  // the last positions of MTP have no target: their tokens train nothing
            EXPECT_EQ(largest, 0) << name;
          }
          ++(got_tokens ? busy : idle);
        }
      }
    }
    EXPECT_GT(busy, 0);
    EXPECT_GT(idle, 0);
  }
}

// Central differences of the total loss, MTP, balance and z loss included, over entries of every kind of
// parameter.
TEST(Gradients, NUM_9_numeric_check_in_double) {
  TinyTraining tiny(test::lively_model(), Precision::fp64);
  const MicroBatch batch = make_micro_batch(test::some_windows(2, 7, 37), kDepths);
  tiny.model.loss(batch, coefficients_of(batch), {}, false).total.backward();
  const std::vector<at::Tensor> routes = routes_of(tiny);
  std::vector<std::string> names = {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"};
  for (const char* layer : {"model.layers.1.", "model.layers.4."})
    for (const char* part :
         {"mlp.gate.weight", "mlp.experts.0.gate_proj.weight", "mlp.experts.0.up_proj.weight",
          "mlp.experts.0.down_proj.weight", "mlp.experts.3.down_proj.weight",
          "mlp.shared_experts.up_proj.weight", "self_attn.q_a_proj.weight", "self_attn.q_b_proj.weight",
          "self_attn.kv_a_proj_with_mqa.weight", "self_attn.kv_b_proj.weight", "self_attn.o_proj.weight",
          "self_attn.q_a_layernorm.weight", "self_attn.kv_a_layernorm.weight", "input_layernorm.weight"})
      names.push_back(std::string(layer) + part);
  for (const char* part : {"eh_proj.weight", "enorm.weight", "hnorm.weight", "shared_head.norm.weight"})
    names.push_back(std::string("model.layers.3.") + part);
  constexpr double kStep = 1e-5;
  int checked = 0;
  for (const std::string& name : names) {
    const auto [parameter, piece] = tiny.registry.find(name);
    ASSERT_TRUE(parameter) << name;
    double* values = parameter->piece_of(parameter->value, *piece).mutable_data_ptr<double>();
    const double* grads = parameter->piece_of(parameter->main_grad, *piece).const_data_ptr<double>();
    const int64_t n = piece->numel();
    for (const int64_t at : std::set<int64_t>{0, n / 3, 2 * n / 3, n - 1}) {
      const double before = values[at];
      values[at] = before + kStep;
      const double up = loss_of(tiny, batch);
      const bool same_up = routes_of(tiny).front().equal(routes.front());
      values[at] = before - kStep;
      const double down = loss_of(tiny, batch);
      values[at] = before;
      bool is_smooth = same_up;
      const std::vector<at::Tensor> now = routes_of(tiny);
      for (size_t i = 0; i < routes.size(); ++i) is_smooth = is_smooth && now[i].equal(routes[i]);
      if (!is_smooth) continue;  // the step crossed a tie of the router
      EXPECT_NEAR((up - down) / (2 * kStep), grads[at], 1e-8 + 1e-6 * std::abs(grads[at]))
          << name << " [" << at << "]";
      ++checked;
    }
  }
  EXPECT_GT(checked, 100);
}

TEST(Gradients, fp32_agrees_with_double) {
  const config::ModelConfig config = test::lively_model();
  const MicroBatch batch = make_micro_batch(test::some_windows(2, 9, config.vocab_size), kDepths);
  TinyTraining exact(config, Precision::fp64), plain(config, Precision::fp32);
  const LossReport expected = exact.model.loss(batch, coefficients_of(batch), {}, false);
  const LossReport found = plain.model.loss(batch, coefficients_of(batch), {}, false);
  EXPECT_NEAR(found.total.item<double>(), expected.total.item<double>(),
              1e-5 * expected.total.item<double>());
  EXPECT_NEAR(found.nll_sum, expected.nll_sum, 1e-5 * expected.nll_sum);
  EXPECT_NEAR(found.balance_loss, expected.balance_loss, 1e-5 * expected.balance_loss);
  expected.total.backward();
  found.total.backward();
  for (size_t i = 0; i < plain.registry.parameters().size(); ++i) {
    const weights::Parameter &p = plain.registry.parameters()[i], &q = exact.registry.parameters()[i];
    if (p.is_trained() && test::largest(q.main_grad) > 0) {
      EXPECT_LT(test::relative_error(p.main_grad, q.main_grad), 1e-4) << p.label;
    }
  }
}

TEST(Gradients, masked_sequences_change_nothing) {
  TinyTraining alone(test::lively_model()), joined(test::lively_model());
  std::vector<Window> windows = test::some_windows(2, 7, 37);
  windows[1].loss_mask.assign(7, 0);
  const MicroBatch both = make_micro_batch(windows, kDepths);
  windows.pop_back();
  const MicroBatch one = make_micro_batch(windows, kDepths);
  LossCoefficients c = coefficients_of(one);
  c.balance = 0;  // that loss is over all tokens
  const LossReport a = alone.model.loss(one, c, {}, false), b = joined.model.loss(both, c, {}, false);
  EXPECT_EQ(a.num_targets, b.num_targets);
  EXPECT_EQ(a.mtp_num_targets, b.mtp_num_targets);
  EXPECT_NEAR(a.nll_sum, b.nll_sum, 1e-6 * a.nll_sum);
  a.total.backward();
  b.total.backward();
  for (size_t i = 0; i < alone.registry.parameters().size(); ++i) {
    const weights::Parameter &p = alone.registry.parameters()[i], &q = joined.registry.parameters()[i];
    if (p.is_trained() && test::largest(p.main_grad) > 0) {
      EXPECT_LT(test::relative_error(q.main_grad, p.main_grad), 1e-5) << p.label;
    }
  }
}

// DATA-4: rows that are all padding, and a step of nothing else: zero, never NaN.
TEST(Gradients, DATA_4_nothing_to_train_is_a_finite_zero) {
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    for (const config::RecomputeKind kind : {config::RecomputeKind::none, config::RecomputeKind::full}) {
      TinyTraining tiny(test::lively_model(), precision);
      std::vector<Window> windows = test::some_windows(3, 16, 37);
      for (Window& window : windows) window.loss_mask.assign(16, 0);
      const MicroBatch batch = make_micro_batch(windows, kDepths);
      LossCoefficients c = coefficients_of(batch);
      c.balance = 0;
      config::RecomputeSection recompute;
      recompute.kind = kind;
      const LossReport report = tiny.model.loss(batch, c, recompute, false);
      EXPECT_EQ(report.total.item<double>(), 0);
      EXPECT_EQ(report.num_targets, 0);
      report.total.backward();
      for (const weights::Parameter& p : tiny.registry.parameters())
        if (p.is_trained() && !p.main_grad_empty) {
          EXPECT_EQ(test::largest(p.main_grad), 0) << p.label;
        }
    }
  }
}

// DATA-4: documents of 7 and 5 tokens, then 9 places of padding in documents of their own that train nothing.
TEST(Gradients, DATA_4_packed_documents_with_padding) {
  TinyTraining packed(test::lively_model()), alone(test::lively_model());
  const std::vector<Window> source = test::some_windows(2, 7, 37);
  Window window;
  for (int i = 0; i < 7; ++i) window.tokens.push_back(source[0].tokens[static_cast<size_t>(i)]);
  for (int i = 0; i < 5; ++i) window.tokens.push_back(source[1].tokens[static_cast<size_t>(i)]);
  window.tokens.resize(7 + 5 + 9 + 1, 0);
  window.loss_mask.assign(21, 0);
  for (const int i : {0, 1, 2, 3, 4, 5, 7, 8, 9, 10}) window.loss_mask[static_cast<size_t>(i)] = 1;
  for (int i = 0; i < 21; ++i) window.position_ids.push_back(i < 7 ? i : i < 12 ? i - 7 : 0);
  window.document_starts = {0, 7};
  for (int i = 12; i <= 21; ++i) window.document_starts.push_back(i);
  const MicroBatch batch = make_micro_batch({window}, kDepths);

  Window second;
  second.tokens.assign(window.tokens.begin() + 7, window.tokens.begin() + 12);
  const MicroBatch lone = make_micro_batch({second}, kDepths);  // 4 inputs and the last label
  {
    at::NoGradGuard no_grad;
    const at::Tensor in_pack = packed.model.logits(packed.model.hidden(batch)).narrow(0, 7, 4);
    const at::Tensor by_itself = alone.model.logits(alone.model.hidden(lone));
    EXPECT_LT(test::relative_error(in_pack, by_itself), 1e-5);
  }
  const LossReport report = packed.model.loss(batch, coefficients_of(batch), {}, false);
  EXPECT_TRUE(std::isfinite(report.total.item<double>()));
  EXPECT_EQ(report.num_targets, 10);
  EXPECT_EQ(report.mtp_num_targets, (std::vector<int64_t>{8, 6}));
  report.total.backward();
  for (const weights::Parameter& p : packed.registry.parameters())
    if (p.is_trained()) {
      EXPECT_TRUE(std::isfinite(test::largest(p.main_grad))) << p.label;
    }
}

TEST(Recompute, any_number_of_layers_changes_no_bit_and_counts_once) {
  const MicroBatch batch = make_micro_batch(test::some_windows(2, 7, 37), kDepths);
  std::vector<at::Tensor> expected;
  for (const int64_t layers : {0, 1, 2, 3, 5, 9}) {  // three of the trunk, two of MTP
    TinyTraining tiny(test::lively_model());
    config::RecomputeSection recompute;
    recompute.kind = config::RecomputeKind::per_stage;
    recompute.layers = {layers};
    tiny.model.loss(batch, coefficients_of(batch), recompute, true).total.backward();
    EXPECT_FALSE(ops::is_recomputing());
    for (Moe* moe : tiny.model.moe_layers()) {
      int64_t total = 0;
      for (const int64_t load : moe->load()) total += load;
      EXPECT_EQ(total, 2 * 7 * 2) << "layer " << moe->layer();
    }
    std::vector<at::Tensor> grads;
    for (const weights::Parameter& p : tiny.registry.parameters())
      if (p.is_trained()) grads.push_back(p.main_grad);
    if (expected.empty()) expected = grads;
    for (size_t i = 0; i < grads.size(); ++i) EXPECT_TRUE(grads[i].equal(expected[i])) << layers << " layers";
  }
}

TEST(Recompute, the_second_run_knows_that_it_is_one) {
  int first = 0, second = 0;
  const auto run = [&](const ops::TensorList& in) -> ops::TensorList {
    ++(ops::is_recomputing() ? second : first);
    return {in[0] * in[0]};
  };
  const at::Tensor x = test::normal({3}, "x").requires_grad_(true);
  const at::Tensor y = ops::recompute(run, {x})[0];
  EXPECT_EQ(first, 1);
  EXPECT_EQ(second, 0);
  y.sum().backward();
  EXPECT_EQ(first, 1);
  EXPECT_EQ(second, 1);
  EXPECT_TRUE(x.grad().equal(x.detach() * 2));
}

}  // namespace
}  // namespace fathom::model

// The trunk and the MTP modules against HF transformers (tests/golden/make_models.py, make_mtp.py): logits, losses,
// router choices and every parameter's gradient, on every instruction set of this machine and under ATen's bodies.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/sort.h>
#include <gtest/gtest.h>

#include <vector>

#include "kernels/isa.h"
#include "model/deepseek.h"
#include "model/micro_batch.h"
#include "ops/vocab_loss.h"
#include "support/golden.h"
#include "weights/load_weights.h"

namespace fathom {
namespace {

using kernels::Isa;

// Relative to the norm of the tensor, as the contract states it.
constexpr double kTolerance = 1e-5;

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor wide = expected.to(at::kDouble);
  const double norm = wide.norm().item<double>();
  return (actual.to(at::kDouble).view_as(wide) - wide).norm().item<double>() / std::max(norm, 1e-12);
}

struct Loaded {
  explicit Loaded(const std::string& name, int64_t mtp_layers,
                  config::Precision precision = config::Precision::fp32)
      : directory(test::golden_directory(name)),
        expected(directory / "expected.safetensors"),
        config(config::read_model_config(directory)) {
    config.num_nextn_predict_layers = mtp_layers;
    registry.emplace(config, precision, c10::kCPU, true);
    model.emplace(*registry);
    weights::load_weights(*registry, directory);
    registry->allocate_grads();
  }
  std::filesystem::path directory;
  test::Fixture expected;
  config::ModelConfig config;
  std::optional<weights::ParameterRegistry> registry;
  std::optional<model::DeepseekModel> model;
};

// The fixture's sequences; the loss there shifts inside the sequence, so the last position has no target.
// `positions` [B, S]: documents restart at 0 and are isolated.
model::MicroBatch batch_of(const at::Tensor& tokens, int64_t mtp_layers, const at::Tensor& positions = {}) {
  std::vector<model::Window> windows;
  for (int64_t b = 0; b < tokens.size(0); ++b) {
    model::Window window;
    const int64_t S = tokens.size(1);
    for (int64_t i = 0; i < S; ++i)
      window.tokens.push_back(static_cast<int32_t>(tokens[b][i].item<int64_t>()));
    window.tokens.push_back(0);
    window.loss_mask.assign(static_cast<size_t>(S), 1);
    window.loss_mask.back() = 0;
    for (int64_t i = 0; positions.defined() && i < S; ++i) {
      const auto position = static_cast<int32_t>(positions[b][i].item<int64_t>());
      window.position_ids.push_back(position);
      if (position != 0) continue;
      window.document_starts.push_back(static_cast<int32_t>(i));
      if (i > 0) window.loss_mask[static_cast<size_t>(i - 1)] = 0;  // no target crosses a document's end
    }
    windows.push_back(window);
  }
  return model::make_micro_batch(windows, mtp_layers);
}

int64_t count(const at::Tensor& targets) { return targets.ne(ops::kIgnoreTarget).sum().item<int64_t>(); }

void expect_gradients(Loaded& loaded, const std::string& prefix) {
  int64_t compared = 0;
  for (weights::Parameter& parameter : loaded.registry->parameters()) {
    if (parameter.is_router_bias) continue;
    ASSERT_FALSE(parameter.main_grad_empty) << parameter.label << " received no gradient";
    for (const weights::Piece& piece : parameter.pieces) {
      const std::string name = prefix + piece.spec->name;
      if (!loaded.expected.has(name)) continue;
      const at::Tensor expected = loaded.expected.at(name);
      const at::Tensor actual = parameter.piece_of(parameter.main_grad, piece);
      if (expected.abs().max().item<double>() == 0) {
        EXPECT_EQ(actual.abs().max().item<double>(), 0) << name << ": an expert without tokens";
      } else {
        EXPECT_LT(relative_error(actual, expected), kTolerance) << name;
      }
      ++compared;
    }
  }
  EXPECT_GT(compared, 10);
}

void expect_routing(Loaded& loaded) {
  for (model::Moe* moe : loaded.model->moe_layers()) {
    const std::string name = "router." + std::to_string(moe->layer()) + ".indices_ascending";
    if (!loaded.expected.has(name)) continue;
    const at::Tensor expected = loaded.expected.at(name);
    const at::Tensor actual = std::get<0>(at::sort(moe->last_indices().to(at::kLong), -1));
    if (actual.size(0) != expected.size(0)) continue;  // MTP: the fixture has no rows for the last positions
    EXPECT_TRUE(actual.equal(expected)) << "layer " << moe->layer();
  }
}

struct Case {
  const char* name;
  Isa isa;
};

std::string case_name(const testing::TestParamInfo<Case>& info) {
  return std::string(info.param.name) + "_" + kernels::name(info.param.isa);
}

std::vector<Case> cases(const std::vector<const char*>& names) {
  std::vector<Case> result;
  for (const char* name : names)
    for (Isa isa : {Isa::aten, Isa::reference, Isa::avx2, Isa::avx512, Isa::amx})
      if (kernels::is_supported(isa)) result.push_back({name, isa});
  return result;
}

class ModelGolden : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    before_ = kernels::isa();
    kernels::force_isa(GetParam().isa);
  }
  void TearDown() override { kernels::force_isa(before_); }
  Isa before_ = Isa::reference;
};

class TrunkGolden : public ModelGolden {};

TEST_P(TrunkGolden, logits_loss_routing_and_gradients) {
  Loaded loaded(GetParam().name, 0);
  const model::MicroBatch batch = batch_of(loaded.expected.at("input.tokens"), 0);
  {
    at::NoGradGuard no_grad;
    EXPECT_LT(relative_error(loaded.model->logits(loaded.model->hidden(batch)), loaded.expected.at("logits")),
              kTolerance);
  }
  expect_routing(loaded);
  model::LossCoefficients coefficients;
  coefficients.main = 1.0 / static_cast<double>(count(batch.targets));
  const model::LossReport report = loaded.model->loss(batch, coefficients, {}, false);
  EXPECT_NEAR(report.total.item<double>(), loaded.expected.at("loss").item<double>(), 1e-5);
  report.total.backward();
  expect_gradients(loaded, "grad.");
}

TEST_P(TrunkGolden, recompute_changes_no_gradient_bit) {
  const std::vector<config::RecomputeKind> kinds = {config::RecomputeKind::none, config::RecomputeKind::full,
                                                    config::RecomputeKind::selective};
  std::vector<at::Tensor> first;
  for (const config::RecomputeKind kind : kinds) {
    Loaded loaded(GetParam().name, 0);
    const model::MicroBatch batch = batch_of(loaded.expected.at("input.tokens"), 0);
    model::LossCoefficients coefficients;
    coefficients.main = 1.0 / static_cast<double>(count(batch.targets));
    coefficients.balance = 0.01;
    config::RecomputeSection recompute;
    recompute.kind = kind;
    loaded.model->loss(batch, coefficients, recompute, true).total.backward();
    std::vector<at::Tensor> grads;
    for (const weights::Parameter& parameter : loaded.registry->parameters())
      if (parameter.is_trained()) grads.push_back(parameter.main_grad);
    for (model::Moe* moe : loaded.model->moe_layers()) {
      int64_t total = 0;
      for (const int64_t load : moe->load()) total += load;
      EXPECT_EQ(total, batch.tokens.numel() * loaded.config.num_experts_per_tok) << "loads are counted once";
    }
    if (first.empty()) {
      first = grads;
    } else {
      for (size_t i = 0; i < grads.size(); ++i) EXPECT_TRUE(grads[i].equal(first[i]));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Family, TrunkGolden,
                         testing::ValuesIn(cases({"v3", "v3_yarn", "v3_negative_bias", "v3_half_split",
                                                  "moonlight", "moonlight_yarn", "kimi_k2", "v2_lite",
                                                  "v2_lite_yarn", "v2_group"})),
                         case_name);

class PackedGolden : public ModelGolden {};

// DATA-4: documents of one window see neither each other nor each other's positions.
TEST_P(PackedGolden, DATA_4_documents_are_isolated) {
  Loaded loaded(GetParam().name, 0);
  const model::MicroBatch batch =
      batch_of(loaded.expected.at("input.tokens"), 0, loaded.expected.at("packed.position_ids"));
  {
    at::NoGradGuard no_grad;
    EXPECT_LT(relative_error(loaded.model->logits(loaded.model->hidden(batch)),
                             loaded.expected.at("packed.logits")),
              kTolerance);
  }
  model::LossCoefficients coefficients;
  coefficients.main = 1.0 / static_cast<double>(count(batch.targets));
  const model::LossReport report = loaded.model->loss(batch, coefficients, {}, false);
  EXPECT_NEAR(report.total.item<double>(), loaded.expected.at("packed.loss").item<double>(), 1e-5);
  report.total.backward();
  expect_gradients(loaded, "packed.grad.");
}

INSTANTIATE_TEST_SUITE_P(V3, PackedGolden, testing::ValuesIn(cases({"v3"})), case_name);

class Bf16Golden : public ModelGolden {};

// bf16 weights and activations: near ties route a few tokens otherwise than HF's bf16 does, so the loss and the median
// logit are held, not the worst one (tests/golden/v3/manifest.json has the same figures for HF against fp32).
TEST_P(Bf16Golden, loss_and_typical_logit) {
  Loaded loaded(GetParam().name, 0, config::Precision::bf16);
  const test::Fixture expected(loaded.directory / "expected_bf16.safetensors");
  const model::MicroBatch batch = batch_of(loaded.expected.at("input.tokens"), 0);
  model::LossCoefficients coefficients;
  coefficients.main = 1.0 / static_cast<double>(count(batch.targets));
  const model::LossReport report = loaded.model->loss(batch, coefficients, {}, false);
  EXPECT_NEAR(report.total.item<double>(), expected.at("fp32.loss").item<double>(), 0.01);
  at::NoGradGuard no_grad;
  const at::Tensor logits = loaded.model->logits(loaded.model->hidden(batch));
  const at::Tensor difference = (logits - expected.at("fp32.logits").view_as(logits)).abs();
  EXPECT_LT(difference.median().item<double>(), 0.01);
}

INSTANTIATE_TEST_SUITE_P(V3, Bf16Golden, testing::ValuesIn(cases({"v3"})), case_name);

class MtpGolden : public ModelGolden {};

TEST_P(MtpGolden, total_loss_and_gradients) {
  const int64_t depth =
      config::read_model_config(test::golden_directory(GetParam().name)).num_nextn_predict_layers;
  ASSERT_GE(depth, 1);
  Loaded loaded(GetParam().name, depth);
  const model::MicroBatch batch = batch_of(loaded.expected.at("input.tokens"), depth);
  model::LossCoefficients coefficients;
  coefficients.main = 1.0 / static_cast<double>(count(batch.targets));
  for (int64_t d = 0; d < depth; ++d)
    coefficients.mtp.push_back(0.3 /
                               static_cast<double>(depth * count(batch.mtp_targets[static_cast<size_t>(d)])));
  const model::LossReport report = loaded.model->loss(batch, coefficients, {}, false);
  for (int64_t d = 0; d < depth; ++d)
    EXPECT_NEAR(report.mtp_nll_sum[static_cast<size_t>(d)] /
                    static_cast<double>(report.mtp_num_targets[static_cast<size_t>(d)]),
                loaded.expected.at("mtp." + std::to_string(d + 1) + ".loss").item<double>(), 2e-5);
  EXPECT_NEAR(report.total.item<double>(), loaded.expected.at("total").item<double>(), 2e-5);
  report.total.backward();
  expect_gradients(loaded, "grad.");
}

INSTANTIATE_TEST_SUITE_P(Depths, MtpGolden, testing::ValuesIn(cases({"v3_mtp", "v3_mtp2"})), case_name);

}  // namespace
}  // namespace fathom

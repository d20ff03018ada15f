// Checkpoints that Fathom trained (tests/golden/make_trained.py), which HF transformers loaded: the same
// tensors, dtypes and logits here.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "config/tensor_table.h"
#include "eval/dump_logits.h"
#include "infer/loaded_model.h"
#include "kernels/isa.h"
#include "model/micro_batch.h"
#include "support/golden.h"
#include "support/scratch.h"

namespace fathom {
namespace {

using kernels::Isa;

class Trained : public testing::TestWithParam<const char*> {
 protected:
  void TearDown() override { kernels::force_isa(before_); }
  // The [S] tokens of sequence b, and one more, of which only the target would depend.
  model::Window window(int64_t b) const {
    const at::Tensor row = expected_.at("input.tokens")[b].contiguous();
    const int64_t* ids = row.const_data_ptr<int64_t>();
    model::Window window;
    window.tokens.assign(ids, ids + row.numel());
    window.tokens.push_back(0);
    return window;
  }
  std::filesystem::path directory_ = test::golden_directory(GetParam());
  test::Fixture expected_{directory_ / "expected.safetensors"};
  test::Fixture weights_{directory_ / "model.safetensors"};
  config::ModelConfig config_ = config::read_model_config(directory_);
  Isa before_ = kernels::isa();
};

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor wide = expected.to(at::kDouble);
  return (actual.to(at::kDouble).view_as(wide) - wide).norm().item<double>() / wide.norm().item<double>();
}

TEST_P(Trained, logits_equal_those_of_transformers) {
  for (const Isa isa : {Isa::aten, Isa::reference, Isa::avx2, Isa::avx512, Isa::amx}) {
    if (!kernels::is_supported(isa)) continue;
    kernels::force_isa(isa);
    const infer::LoadedModel loaded = infer::load_model(directory_, infer::EngineDtype::fp32, 1);
    const at::NoGradGuard no_grad;
    const model::MicroBatch batch = model::make_micro_batch({window(0), window(1)}, 0);
    EXPECT_LT(relative_error(loaded.model->logits(loaded.model->hidden(batch)), expected_.at("logits")), 1e-5)
        << kernels::name(isa);
  }
}

// fathom eval --dump-logits: what other programs compare with.
TEST_P(Trained, dumped_logits_are_those_of_the_window) {
  const infer::LoadedModel loaded = infer::load_model(directory_, infer::EngineDtype::fp32, 1);
  const test::ScratchDirectory scratch;
  eval::dump_logits(*loaded.model, window(1), scratch / "logits.safetensors");
  const test::Fixture dumped(scratch / "logits.safetensors");
  EXPECT_EQ(dumped.file().tensors().size(), 2u);
  EXPECT_TRUE(dumped.at("tokens").equal(expected_.at("input.tokens").narrow(0, 1, 1)));
  EXPECT_EQ(dumped.at("logits").sizes().vec(), (std::vector<int64_t>{1, 40, config_.vocab_size}));
  EXPECT_LT(relative_error(dumped.at("logits"), expected_.at("logits").narrow(0, 1, 1)), 1e-5);
}

TEST_P(Trained, files_hold_exactly_the_tensors_of_the_config) {
  const config::TensorTable table(config_);
  std::set<std::string> implied, held;
  for (const config::TensorSpec& spec : table.tensors()) implied.insert(spec.name);
  for (const formats::TensorEntry& entry : weights_.file().tensors()) {
    held.insert(entry.name);
    ASSERT_NE(table.find(entry.name), nullptr) << entry.name;
    EXPECT_EQ(entry.shape, table.at(entry.name).shape) << entry.name;
    const bool is_wide =
        config_.dtype == "float32" || table.at(entry.name).role == config::TensorRole::router_bias;
    EXPECT_EQ(entry.dtype, is_wide ? formats::Dtype::F32 : formats::Dtype::BF16) << entry.name;
  }
  EXPECT_EQ(held, implied);
}

// WT-6, WT-7: the multi-token prediction layer stands after the trunk's, with the copies that DeepSeek ships.
TEST_P(Trained, WT_7_mtp_layer_is_complete_and_its_copies_are_equal) {
  ASSERT_EQ(config_.num_nextn_predict_layers, 1);
  const std::string layer = config::layer_prefix(config_.num_hidden_layers);
  EXPECT_TRUE(weights_.at(layer + "embed_tokens.weight").equal(weights_.at("model.embed_tokens.weight")));
  EXPECT_TRUE(weights_.at(layer + "shared_head.head.weight").equal(weights_.at("lm_head.weight")));
  for (const char* name : {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight",
                           "self_attn.kv_b_proj.weight", "mlp.gate.weight", "mlp.experts.7.down_proj.weight"})
    EXPECT_TRUE(weights_.has(layer + name)) << name;
}

// A fixture of initial weights would prove little: balance has moved every router's bias, training the norms.
TEST_P(Trained, weights_have_been_trained) {
  for (int64_t layer = config_.first_k_dense_replace; layer <= config_.num_hidden_layers; ++layer) {
    const std::string prefix = config::layer_prefix(layer);
    EXPECT_GT(weights_.at(prefix + "mlp.gate.e_score_correction_bias").abs().max().item<double>(), 0.01)
        << prefix;
    EXPECT_GT((weights_.at(prefix + "input_layernorm.weight") - 1).abs().max().item<double>(), 0.01)
        << prefix;
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, Trained, testing::Values("trained", "trained_bf16"));

}  // namespace
}  // namespace fathom

// Generation against HF transformers (tests/golden/make_models.py): greedy tokens through the engine, and the
// cached forms of the forward pass against each other and against the trainer's.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "eval/perplexity.h"
#include "infer/engine_api.h"
#include "infer/loaded_model.h"
#include "kernels/isa.h"
#include "model/micro_batch.h"
#include "ops/vocab_loss.h"
#include "support/golden.h"

namespace fathom {
namespace {

using infer::EngineDtype;

std::vector<int32_t> ids_of(const at::Tensor& tokens) {
  const at::Tensor flat = tokens.reshape({-1});
  const int64_t* data = flat.const_data_ptr<int64_t>();
  return {data, data + flat.numel()};
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

class Generation : public testing::TestWithParam<const char*> {
 protected:
  Generation() : fixture_(test::golden_directory(GetParam()) / "expected.safetensors") {}
  infer::LoadedModel load() const {
    return infer::load_model(test::golden_directory(GetParam()), EngineDtype::fp32, 1);
  }
  // [S] of the first sequence.
  at::Tensor tokens() const { return fixture_.at("input.tokens")[0].contiguous(); }
  test::Fixture fixture_;
};

TEST_P(Generation, greedy_tokens_equal_those_of_transformers) {
  const auto engine =
      infer::load_engine(test::golden_directory(GetParam()), {.dtype = EngineDtype::fp32, .threads = 1});
  int prompts = 0;
  for (; fixture_.has("generate." + std::to_string(prompts) + ".prompt"); ++prompts) {
    const std::string name = "generate." + std::to_string(prompts);
    const std::vector<int32_t> prompt = ids_of(fixture_.at(name + ".prompt"));
    const std::vector<int32_t> expected = ids_of(fixture_.at(name + ".tokens"));
    infer::SamplingParams params;
    params.max_new_tokens = static_cast<int64_t>(expected.size());
    params.ignore_eos = true;  // as the script ran it
    EXPECT_EQ(infer::generate(*engine, {prompt, params}).token_ids, expected) << name;
  }
  EXPECT_GE(prompts, 1);
}

TEST_P(Generation, prefill_equals_the_trainers_forward) {
  infer::LoadedModel loaded = load();
  const at::NoGradGuard no_grad;
  model::Window window;
  window.tokens = ids_of(tokens());
  window.tokens.push_back(0);
  const at::Tensor trained = loaded.model->logits(loaded.model->hidden(model::make_micro_batch({window}, 0)));
  model::LatentCache cache = loaded.model->make_cache(tokens().numel());
  const at::Tensor prefilled = loaded.model->logits(loaded.model->prefill(tokens(), cache));
  EXPECT_LT(largest_difference(prefilled, trained), 1e-5);
  EXPECT_LT(largest_difference(prefilled, fixture_.at("logits")[0]), 1e-4);
}

TEST_P(Generation, decode_agrees_with_prefill_of_the_whole_text) {
  infer::LoadedModel loaded = load();
  const at::Tensor text = tokens();
  const int64_t S = text.numel();
  model::LatentCache whole = loaded.model->make_cache(S);
  const at::Tensor expected = loaded.model->logits(loaded.model->prefill(text, whole));
  for (const int64_t prefix : {int64_t{1}, S / 2}) {
    model::LatentCache cache = loaded.model->make_cache(S);
    loaded.model->prefill(text.narrow(0, 0, prefix), cache);
    for (int64_t t = prefix; t < S; ++t) {
      const at::Tensor row = loaded.model->logits(loaded.model->decode(text[t].item<int64_t>(), cache));
      EXPECT_LT(largest_difference(row[0], expected[t]), 1e-4) << "prefix " << prefix << ", token " << t;
    }
    EXPECT_EQ(cache.length(), S);
  }
}

TEST_P(Generation, reported_logprobs_are_the_trainers) {
  const auto engine =
      infer::load_engine(test::golden_directory(GetParam()), {.dtype = EngineDtype::fp32, .threads = 1});
  infer::SamplingParams params;
  params.temperature = 1;
  params.seed = 3;
  params.max_new_tokens = 12;
  params.ignore_eos = true;
  const infer::Result result = infer::generate(*engine, {{0, 17, 45, 200, 3}, params});

  infer::LoadedModel loaded = load();
  const at::NoGradGuard no_grad;
  model::Window window;
  window.tokens = result.prompt_ids;
  window.tokens.insert(window.tokens.end(), result.token_ids.begin(), result.token_ids.end());
  const model::MicroBatch batch = model::make_micro_batch({window}, 0);
  const at::Tensor trained =
      ops::target_log_probs(loaded.model->hidden(batch), loaded.model->head(), batch.targets);
  const auto first = static_cast<int64_t>(result.prompt_ids.size()) - 1;
  for (size_t i = 0; i < result.logprobs.size(); ++i)
    EXPECT_NEAR(result.logprobs[i], trained[first + static_cast<int64_t>(i)].item<float>(), 1e-4)
        << "token " << i;
}

INSTANTIATE_TEST_SUITE_P(Golden, Generation,
                         testing::Values("v3", "v3_yarn", "v3_negative_bias", "v3_half_split", "moonlight",
                                         "moonlight_yarn", "kimi_k2", "v2_lite", "v2_lite_yarn", "v2_group"));

// One file of the MTP family: its extra layers must not be in the way.
TEST(GenerationWithMtp, mtp_layers_are_left_out) {
  const auto engine = infer::load_engine(test::golden_directory("v3_mtp"), {.threads = 1});
  infer::SamplingParams params;
  params.max_new_tokens = 4;
  params.ignore_eos = true;
  EXPECT_EQ(infer::generate(*engine, {{0, 17, 45}, params}).token_ids.size(), 4u);
}

TEST(Perplexity, equals_the_loss_of_transformers_and_of_the_trainer) {
  infer::LoadedModel loaded = infer::load_model(test::golden_directory("v3"), EngineDtype::fp32, 1);
  const test::Fixture fixture(test::golden_directory("v3") / "expected.safetensors");
  const at::Tensor tokens = fixture.at("input.tokens");
  std::vector<model::Window> windows;
  for (int64_t b = 0; b < tokens.size(0); ++b)
    windows.push_back({ids_of(tokens[b].contiguous()), {}, {}, {}});
  const auto count = static_cast<int64_t>(windows.size());
  const auto window = [&](int64_t i) { return windows[static_cast<size_t>(i)]; };
  const eval::Perplexity found = eval::perplexity_of_windows(*loaded.model, count, window);
  EXPECT_EQ(found.tokens, count * (tokens.size(1) - 1));
  EXPECT_NEAR(found.nll(), fixture.at("loss").item<double>(), 1e-5);
  EXPECT_NEAR(found.perplexity(), std::exp(found.nll()), 1e-9);

  const at::NoGradGuard no_grad;
  const model::LossReport trainer = loaded.model->loss(model::make_micro_batch(windows, 0), {}, {}, false);
  EXPECT_EQ(found.tokens, trainer.num_targets);
  EXPECT_NEAR(found.nll_sum, trainer.nll_sum, 1e-6 * trainer.nll_sum);
}

TEST(Perplexity, text_is_cut_into_windows_that_predict_each_token_once) {
  infer::LoadedModel loaded = infer::load_model(test::golden_directory("v3"), EngineDtype::fp32, 1);
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 50; ++i) ids.push_back(i * 37 % 320);
  const eval::Perplexity cut = eval::perplexity_of_tokens(*loaded.model, ids, 20);
  EXPECT_EQ(cut.tokens, 49);
  // 0..20, 20..40, 40..49
  eval::Perplexity sum;
  for (const auto& [begin, end] : {std::pair{0, 21}, {20, 41}, {40, 50}}) {
    const std::vector<int32_t> part(ids.begin() + begin, ids.begin() + end);
    const eval::Perplexity one = eval::perplexity_of_tokens(*loaded.model, part, 20);
    sum.tokens += one.tokens;
    sum.nll_sum += one.nll_sum;
  }
  EXPECT_EQ(sum.tokens, 49);
  EXPECT_NEAR(cut.nll_sum, sum.nll_sum, 1e-9 * sum.nll_sum);
  EXPECT_THROW(eval::perplexity_of_tokens(*loaded.model, {5}, 20), DataError);
  EXPECT_THROW(eval::perplexity_of_tokens(*loaded.model, {5, 400}, 20), DataError);
}

}  // namespace
}  // namespace fathom

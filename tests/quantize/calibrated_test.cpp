// From a checkpoint and texts to a quantised checkpoint on disk.
#include "quantize/calibrated.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/round.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/convert.h"
#include "formats/sharded_safetensors.h"
#include "support/trained_model.h"

namespace fathom::quantize {
namespace {

const std::filesystem::path kTrained = test::golden_directory("trained");

checkpoint::QuantizeOptions files_options(const std::string& scheme) {
  checkpoint::QuantizeOptions options;
  options.scheme = scheme;
  options.group_size = -1;  // the tiny model's rows are too short for groups
  options.is_stopped = [] { return false; };
  return options;
}

CalibratedReport quantise(const std::filesystem::path& directory, const checkpoint::QuantizeOptions& files,
                          Method method = Method::gptq, std::optional<double> smoothing = {},
                          int64_t min_expert_tokens = 16) {
  CalibrationOptions calibration;
  calibration.method = method;
  calibration.smoothing = smoothing;
  calibration.min_expert_tokens = min_expert_tokens;
  return quantize_calibrated(kTrained, directory, test::trained_language(16, 1), config::Precision::fp32,
                             files, calibration);
}

double streamed_perplexity(const std::filesystem::path& directory,
                           const std::vector<model::Window>& windows) {
  config::ModelConfig model = config::read_model_config(directory);
  model.num_nextn_predict_layers = 0;
  LayerStream stream(directory, model, config::Precision::fp32, windows);
  stream.run();
  const Block head = stream.load_head();
  return eval::perplexity_of_states(
             head.registry->parameters().front(), stream.num_samples(),
             [&](int64_t i) { return windows[static_cast<size_t>(i)]; },
             [&](int64_t i, const model::MicroBatch&) { return stream.state(i); })
      .perplexity();
}

std::map<std::string, std::string> files_of(const std::filesystem::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    files[entry.path().filename().string()] = entry.is_directory() ? "" : read_text_file(entry.path());
  return files;
}

TEST(Calibrated, int4_on_disk_loses_less_than_nearest) {
  const test::ScratchDirectory scratch;
  const std::vector<model::Window> held_out = test::trained_language(64, 2);
  const CalibratedReport report = quantise(scratch / "gptq", files_options("int4"));
  checkpoint::quantize_checkpoint(kTrained, scratch / "rtn", files_options("int4"));
  EXPECT_EQ(report.layers.size(), 3u);
  EXPECT_FALSE(std::filesystem::exists(scratch / "gptq" / kCalibrationFolder));
  const double source = streamed_perplexity(kTrained, held_out),
               gptq = streamed_perplexity(scratch / "gptq", held_out);
  EXPECT_LT(gptq, 1.005 * source);
  // With a scale a row, perplexity differs from round to nearest's by less than it does from text to text.
  test::WholeModel whole(kTrained), by_gptq(scratch / "gptq"), by_nearest(scratch / "rtn");
  EXPECT_LT(test::divergence(whole, by_gptq, held_out), 0.85 * test::divergence(whole, by_nearest, held_out));
  // the number of a whole model in memory, as `fathom eval` has it
  EXPECT_EQ(source, test::WholeModel(kTrained).perplexity(held_out));
  EXPECT_EQ(gptq, test::WholeModel(scratch / "gptq").perplexity(held_out));
}

TEST(Calibrated, WT_13_starved_experts_are_as_without_calibration_and_routers_keep_their_bits) {
  const test::ScratchDirectory scratch;
  quantise(scratch / "starved", files_options("int4"), Method::gptq, {}, 1 << 30);
  checkpoint::quantize_checkpoint(kTrained, scratch / "rtn", files_options("int4"));
  const formats::ShardedReader source(kTrained), starved(scratch / "starved"), rtn(scratch / "rtn");
  size_t experts = 0, kept = 0;
  for (const formats::ShardedReader::Location& location : starved.tensors()) {
    const std::string& name = location.entry->name;
    const bool is_expert = name.find(".mlp.experts.") != std::string::npos;
    const formats::ShardedReader::Location* expected = is_expert ? &rtn.at(name) : source.find(name);
    if (!expected) continue;  // codes made by GPTQ
    ASSERT_EQ(location.bytes().size(), expected->bytes().size()) << name;
    EXPECT_EQ(std::memcmp(location.bytes().data(), expected->bytes().data(), location.bytes().size()), 0)
        << name;
    ++(is_expert ? experts : kept);
  }
  EXPECT_EQ(experts, 2u * 8 * 3 * 3);  // layers, experts, matrices, parts
  EXPECT_GE(kept, 20u);
  for (const char* name : {"mlp.gate.weight", "mlp.gate.e_score_correction_bias"})
    EXPECT_TRUE(starved.find("model.layers.1." + std::string(name)) != nullptr) << name;
}

TEST(Calibrated, smoothed_int8_computes_what_the_source_does) {
  const test::ScratchDirectory scratch;
  const CalibratedReport report =
      quantise(scratch / "smooth", files_options("w8a8"), Method::round_to_nearest, 0.5);
  EXPECT_TRUE(report.layers[1].starved_experts.empty());  // nothing falls back to what is done anyway
  test::WholeModel source(kTrained), smooth(scratch / "smooth");
  // Gains and router changed by exact powers of two, against each other.
  const at::Tensor gain = source.values("model.layers.1.post_attention_layernorm.weight"),
                   router = source.values("model.layers.1.mlp.gate.weight"),
                   new_gain = smooth.values("model.layers.1.post_attention_layernorm.weight"),
                   new_router = smooth.values("model.layers.1.mlp.gate.weight");
  EXPECT_FALSE(at::equal(gain, new_gain));
  EXPECT_TRUE(at::equal(router * gain, new_router * new_gain));
  const std::vector<model::Window> held_out = test::trained_language(32, 2);
  const double before = source.perplexity(held_out);
  EXPECT_NEAR(smooth.perplexity(held_out), before, 0.003 * before);
}

// MindFormers' recipe, from calibration to its files, and its arithmetic on the first layer's inputs.
TEST(Calibrated, mindformers_w8a8_computes_what_the_source_does) {
  const test::ScratchDirectory scratch;
  const fs::path made = scratch / "ms", back = scratch / "hf";
  const std::vector<model::Window> held_out = test::trained_language(64, 2);
  const CalibratedReport report = quantise(made, files_options("mindformers-w8a8"), Method::round_to_nearest);
  EXPECT_EQ(report.layers.size(), 2u);  // the MTP layer stays as it is
  EXPECT_FALSE(fs::exists(made / kCalibrationFolder));
  const Json types = read_json_file(made / "quantization_description.json");
  const std::string layer = "model.layers.0.attention.";
  EXPECT_EQ(types.at(layer + "q2l_proj._layer.weight"), "W8A8");
  EXPECT_EQ(types.at("model.layers.1.feed_forward.routed_experts.ffn.w2._layer.weight"), "W8A8_DYNAMIC");
  EXPECT_EQ(types.at("model.layers.2.attention.q2l_proj.weight"), "FLOAT");

  checkpoint::ConvertOptions to_hf;
  to_hf.is_stopped = [] { return false; };
  checkpoint::convert_checkpoint(made, back, to_hf);
  const double before = streamed_perplexity(kTrained, held_out);
  EXPECT_NEAR(streamed_perplexity(back, held_out), before, 0.003 * before);

  // dequant_scale * (codes round((x + beta) / input_scale) + quant_bias) against the source's product.
  test::WholeModel source(kTrained), quantised(back);
  const at::NoGradGuard no_grad;
  const at::Tensor embeddings =
      at::embedding(source.values("model.embed_tokens.weight"),
                    at::tensor(std::vector<int64_t>(held_out[0].tokens.begin(), held_out[0].tokens.end())));
  const at::Tensor normed = embeddings * at::rsqrt((embeddings * embeddings).mean(-1, true) + 1e-6);
  const std::string norm = "model.layers.0.input_layernorm.weight",
                    q_a = "model.layers.0.self_attn.q_a_proj.weight";
  const at::Tensor expected = at::mm(normed * source.values(norm), source.values(q_a).t()),
                   x = normed * quantised.values(norm);
  const formats::ShardedReader files(made, formats::read_parameter_map(made / formats::kParameterMapName));
  const auto part = [&](const char* name, at::ScalarType type) {
    const formats::ShardedReader::Location& location = files.at(layer + "q2l_proj." + name);
    return at::from_blob(const_cast<std::byte*>(location.bytes().data()), location.entry->shape,
                         at::TensorOptions().dtype(type))
        .to(at::kFloat);
  };
  const at::Tensor inputs =
      at::round((x + part("quant_op.beta", at::kBFloat16)) / part("quant_op.input_scale", at::kBFloat16))
          .clamp(-128, 127);
  const at::Tensor found =
      (at::mm(inputs, part("_layer.weight", at::kChar).t()) + part("_layer.matmul.quant_bias", at::kInt)) *
      part("_layer.matmul.dequant_scale", at::kFloat);
  EXPECT_LT(((found - expected).norm() / expected.norm()).item<double>(), 0.04);
}

TEST(Calibrated, a_stopped_one_goes_on) {
  const test::ScratchDirectory scratch;
  const CalibratedReport whole = quantise(scratch / "whole", files_options("int4"), Method::gptq, 0.5);
  for (int stops = 0;; ++stops) {
    ASSERT_LT(stops, 60);
    checkpoint::QuantizeOptions options = files_options("int4");
    const auto left = std::make_shared<std::atomic<int>>(40 + 45 * stops);
    options.is_stopped = [left] { return --*left < 0; };
    try {
      const CalibratedReport report = quantise(scratch / "parts", options, Method::gptq, 0.5);
      EXPECT_GT(stops, 1);
      EXPECT_EQ(report.layers[2].output_error, whole.layers[2].output_error);
      break;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("stopped"));
      EXPECT_FALSE(std::filesystem::exists(scratch / "parts/config.json"));
    }
  }
  EXPECT_EQ(files_of(scratch / "parts"), files_of(scratch / "whole"));
}

TEST(Calibrated, what_cannot_be_is_refused_before_the_work) {
  const test::ScratchDirectory scratch;
  EXPECT_THROW(quantise(scratch / "fp8", files_options("fp8")), UsageError);
  EXPECT_FALSE(std::filesystem::exists(scratch / "fp8"));
  EXPECT_THROW(quantise(scratch / "ms", files_options("mindformers-w8a8"), Method::gptq), UsageError);
  EXPECT_THROW(quantise(scratch / "ms", files_options("mindformers-w8a8"), Method::round_to_nearest, 0.5),
               UsageError);
  EXPECT_FALSE(std::filesystem::exists(scratch / "ms"));
  std::filesystem::create_directory(scratch / "taken");
  write_text_file(scratch / "taken/config.json", "{}");
  EXPECT_THROW(quantise(scratch / "taken", files_options("int4")), CheckpointError);
  checkpoint::QuantizeOptions groups = files_options("int4");
  groups.group_size = 128;
  EXPECT_THROW(quantise(scratch / "groups", groups), UsageError);  // 48 columns
  EXPECT_FALSE(std::filesystem::exists(scratch / "groups"));
}

}  // namespace
}  // namespace fathom::quantize

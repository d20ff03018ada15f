#include "quantize/calibrate.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/static_activation.h"
#include "quantize/smoothquant.h"
#include "support/trained_model.h"

namespace fathom::quantize {
namespace {

const std::filesystem::path kTrained = test::golden_directory("trained");

CalibrationOptions options_for(int bits, int64_t group_size, Method method = Method::gptq) {
  CalibrationOptions options;
  options.method = method;
  options.min_expert_tokens = 16;
  options.grid_of = [grid = test::int_grid(bits, group_size)](const config::TensorSpec& spec) {
    return test::is_quantised(spec) ? std::optional(grid) : std::nullopt;
  };
  options.is_stopped = [] { return false; };
  return options;
}

void run(const std::filesystem::path& store_directory, const CalibrationOptions& options,
         const std::vector<model::Window>& windows, const std::filesystem::path& source = kTrained) {
  CalibrationStore store(store_directory, {{"test", 1}});
  LayerStream stream(source, config::read_model_config(source), config::Precision::fp32, windows);
  calibrate(stream, store, options);
  for (int64_t layer = 0; layer < stream.num_blocks(); ++layer) EXPECT_TRUE(store.has(layer));
}

// The model's weights as a quantised file would hold them.
void apply(test::WholeModel& whole, const CalibrationStore& store, const CalibrationOptions& options) {
  for (int64_t layer = 0; layer < whole.config.num_layers_with_mtp(); ++layer)
    for (const SmoothingGroup& group : smoothing_groups(whole.registry.table(), layer)) {
      const std::vector<float> scales = store.smoothing(layer, group.norm);
      if (!scales.empty()) fold(whole.registry, group, at::tensor(scales));
    }
  for (const config::TensorSpec& spec : whole.registry.table().tensors()) {
    const std::optional<Grid> grid = options.grid_of(spec);
    if (!grid) continue;
    const std::optional<CodedMatrix> found = store.matrix(spec.layer, spec.name);
    at::Tensor values = whole.values(spec.name);
    values.copy_(decode(found ? found->codes : round_to_nearest(values, *grid), spec.shape[1], *grid));
  }
}

double perplexity_after(const std::filesystem::path& store_directory, const CalibrationOptions& options,
                        const std::vector<model::Window>& windows) {
  const CalibrationStore store(store_directory, {{"test", 1}});
  test::WholeModel whole(kTrained);
  apply(whole, store, options);
  return whole.perplexity(windows);
}

TEST(Calibrate, gptq_int4_keeps_held_out_perplexity_better_than_nearest) {
  const test::ScratchDirectory scratch;
  const std::vector<model::Window> calibration = test::trained_language(64, 1),
                                   held_out = test::trained_language(64, 2);
  const double source = test::WholeModel(kTrained).perplexity(held_out);
  std::map<Method, double> after;
  for (const Method method : {Method::round_to_nearest, Method::gptq}) {
    const CalibrationOptions options = options_for(4, 16, method);
    const std::filesystem::path directory = scratch / (method == Method::gptq ? "gptq" : "rtn");
    run(directory, options, calibration);
    after[method] = perplexity_after(directory, options, held_out);
    RecordProperty(method == Method::gptq ? "gptq" : "rtn", std::to_string(after[method]));
  }
  EXPECT_LE(after[Method::gptq], after[Method::round_to_nearest]);
  EXPECT_LT(after[Method::gptq], 1.005 * source) << "source " << source;
  // each layer by itself, too
  const CalibrationStore rtn(scratch / "rtn", {{"test", 1}}), gptq(scratch / "gptq", {{"test", 1}});
  for (int64_t layer = 0; layer < 3; ++layer) {
    EXPECT_GT(gptq.report(layer).output_error, 0);
    EXPECT_LT(gptq.report(layer).output_error, rtn.report(layer).output_error) << "layer " << layer;
  }
}

TEST(Calibrate, smoothing_is_found_for_every_norm_and_keeps_int8_perplexity) {
  const test::ScratchDirectory scratch;
  CalibrationOptions options = options_for(8, 1 << 20, Method::round_to_nearest);
  options.smoothing = 0.5;
  run(scratch / "store", options, test::trained_language(16, 1));
  const CalibrationStore store(scratch / "store", {{"test", 1}});
  for (int64_t layer = 0; layer < 3; ++layer)
    for (const char* norm : {"input_layernorm", "self_attn.q_a_layernorm", "self_attn.kv_a_layernorm",
                             "post_attention_layernorm"})
      EXPECT_FALSE(store.smoothing(layer, config::layer_prefix(layer) + norm + ".weight").empty()) << norm;
  const std::vector<model::Window> held_out = test::trained_language(32, 2);
  const double source = test::WholeModel(kTrained).perplexity(held_out);
  EXPECT_NEAR(perplexity_after(scratch / "store", options, held_out), source, 0.002 * source);
  // The ranges of attention's inputs, from which static scales come, are those behind the smoothed norm.
  const auto range = store.input_range(1, "model.layers.1.self_attn.o_proj.weight");
  ASSERT_TRUE(range);
  EXPECT_EQ(range->first.size(), 48u);
  EXPECT_GT(checkpoint::static_activation(range->first, range->second).scale, 0);
}

// Text that two of eight experts never see: it ends, names them, and they are as rounding to nearest makes them.
TEST(Calibrate, WT_13_experts_without_tokens_fall_back_and_are_named) {
  const test::ScratchDirectory scratch;
  std::filesystem::copy(kTrained, scratch / "source");
  {
    // The same weights, but experts 2 and 3 of layer 1, a group, are never chosen.
    const formats::SafetensorsFile trained(kTrained / formats::kSingleFileName);
    std::vector<formats::TensorDeclaration> declarations;
    for (const formats::TensorEntry& entry : trained.tensors())
      declarations.push_back({entry.name, entry.dtype, entry.shape});
    formats::SafetensorsWriter writer(scratch / "source/model.safetensors", declarations);
    for (const formats::TensorEntry& entry : trained.tensors()) {
      std::vector<std::byte> bytes(trained.bytes(entry).begin(), trained.bytes(entry).end());
      if (entry.name == "model.layers.1.mlp.gate.e_score_correction_bias")
        for (const int expert : {2, 3}) reinterpret_cast<float*>(bytes.data())[expert] = -100;
      writer.write(entry.name, bytes);
    }
    writer.commit();
  }
  const CalibrationOptions options = options_for(4, 16);
  run(scratch / "store", options, test::trained_language(32, 1), scratch / "source");
  const CalibrationStore store(scratch / "store", {{"test", 1}});
  const LayerReport report = store.report(1);
  EXPECT_THAT(report.starved_experts, testing::ElementsAre(2, 3));
  ASSERT_EQ(report.expert_tokens.size(), 8u);
  EXPECT_EQ(report.expert_tokens[2] + report.expert_tokens[3], 0);
  int64_t tokens = 0;
  for (const int64_t count : report.expert_tokens) tokens += count;
  EXPECT_EQ(tokens, 32 * 40 * 3);
  EXPECT_FALSE(store.matrix(1, "model.layers.1.mlp.experts.2.up_proj.weight"));
  EXPECT_TRUE(store.matrix(1, "model.layers.1.mlp.experts.4.up_proj.weight"));
  for (const char* name : {"mlp.gate.weight", "mlp.gate.e_score_correction_bias", "input_layernorm.weight"})
    EXPECT_FALSE(store.matrix(1, config::layer_prefix(1) + name)) << name;

  testing::internal::CaptureStderr();
  const LayerStream stream(scratch / "source", config::read_model_config(scratch / "source"),
                           config::Precision::fp32, {});
  log_report(store, stream, options);
  EXPECT_THAT(
      testing::internal::GetCapturedStderr(),
      testing::AllOf(testing::HasSubstr("model.layers.1.mlp.experts"), testing::HasSubstr("2 (0), 3 (0)")));
}

std::map<std::string, std::string> files_of(const std::filesystem::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    files[entry.path().filename().string()] = read_text_file(entry.path());
  return files;
}

TEST(Calibrate, a_stopped_one_goes_on_with_the_same_bits) {
  const test::ScratchDirectory scratch;
  const std::vector<model::Window> windows = test::trained_language(8, 1);
  for (const Method method : {Method::gptq, Method::round_to_nearest}) {
    const std::filesystem::path whole = scratch / "whole", parts = scratch / "parts";
    CalibrationOptions options = options_for(4, 16, method);
    options.smoothing = 0.5;
    run(whole, options, windows);
    for (int stops = 0;; ++stops) {
      ASSERT_LT(stops, 20);
      // further each time: all kinds of places
      options.is_stopped = [left = 15 + 25 * stops]() mutable { return --left < 0; };
      try {
        run(parts, options, windows);
        EXPECT_GT(stops, 1);
        break;
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), testing::HasSubstr("stopped"));
      }
    }
    EXPECT_EQ(files_of(parts), files_of(whole));
    std::filesystem::remove_all(whole);
    std::filesystem::remove_all(parts);
  }
}

TEST(CalibrationStore, another_plan_starts_anew) {
  const test::ScratchDirectory scratch;
  LayerResult result;
  result.report.layer = 4;
  result.smoothing["norm"] = {1, 2};
  CalibrationStore(scratch / "store", {{"alpha", 0.5}}).write(result);
  EXPECT_THAT(CalibrationStore(scratch / "store", {{"alpha", 0.5}}).smoothing(4, "norm"),
              testing::ElementsAre(1, 2));
  EXPECT_FALSE(CalibrationStore(scratch / "store", {{"alpha", 0.7}}).has(4));
  CalibrationStore(scratch / "store", {{"alpha", 0.7}}).remove();
  EXPECT_FALSE(std::filesystem::exists(scratch / "store"));
}

TEST(Calibrate, nan_in_the_source_is_named) {
  const test::ScratchDirectory scratch;
  std::filesystem::copy(kTrained, scratch / "source");
  const std::string bytes = read_text_file(kTrained / formats::kSingleFileName);
  const formats::SafetensorsFile trained(kTrained / formats::kSingleFileName);
  const uint64_t at = trained.at("model.layers.1.self_attn.o_proj.weight").offset;
  write_text_file(scratch / "source/model.safetensors",
                  bytes.substr(0, at) + std::string("\0\0\xc0\x7f", 4) + bytes.substr(at + 4));
  try {
    run(scratch / "store", options_for(4, 16), test::trained_language(4, 1), scratch / "source");
    FAIL();
  } catch (const NumericError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("layer 1"));
  }
}

}  // namespace
}  // namespace fathom::quantize

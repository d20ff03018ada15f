// quantization_config as compressed-tensors writes it, ours and the field's.
#include "config/quantization.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "config/tensor_table.h"

namespace fathom::config {
namespace {

using ::testing::HasSubstr;

QuantizationConfig parse(const std::string& text) {
  return parse_quantization(parse_json(text, "test"), "config.json: quantization_config");
}

// As Kimi-K2-Thinking publishes it.
const char* const kKimi = R"({
  "config_groups": {"group_0": {
    "input_activations": null, "output_activations": null, "targets": ["Linear"],
    "weights": {"actorder": null, "block_structure": null, "dynamic": false, "group_size": 32, "num_bits": 4,
                "observer": "minmax", "observer_kwargs": {}, "strategy": "group", "symmetric": true, "type": "int"}}},
  "format": "pack-quantized",
  "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
  "kv_cache_scheme": null, "quant_method": "compressed-tensors", "quantization_status": "compressed"})";

TEST(Quantization, kimi_k2_thinking) {
  const QuantizationConfig config = parse(kKimi);
  EXPECT_EQ(config.unsupported, "");
  const IntWeights* experts = int_weights(config, "model.layers.3.mlp.experts.17.down_proj", true);
  ASSERT_TRUE(experts);
  EXPECT_EQ(*experts, int4_weights(32));
  for (const char* module :
       {"lm_head", "model.layers.0.self_attn.o_proj", "model.layers.3.mlp.shared_experts.up_proj",
        "model.layers.0.mlp.down_proj", "model.layers.0.mlp.gate_proj"})
    EXPECT_FALSE(int_weights(config, module, true)) << module;
  EXPECT_FALSE(int_weights(config, "model.layers.3.mlp.gate", false)) << "no nn.Linear";
}

TEST(Quantization, what_is_written_is_read) {
  for (const IntWeights& weights : {kW8A8, int4_weights(128), int4_weights(-1)}) {
    const QuantizationConfig written =
        compressed_tensors_config({{{ModulePattern("Linear")}, weights}, {{ModulePattern("lm_head")}, kW8A8}},
                                  {ModulePattern("re:.*kv_b_proj$")});
    const QuantizationConfig config = parse(written.raw.dump());
    EXPECT_EQ(config.unsupported, "");
    ASSERT_TRUE(int_weights(config, "model.layers.0.self_attn.o_proj", true));
    EXPECT_EQ(*int_weights(config, "model.layers.0.self_attn.o_proj", true), weights);
    EXPECT_EQ(*int_weights(config, "lm_head", true), kW8A8) << "a name goes before a class";
    EXPECT_FALSE(int_weights(config, "model.layers.0.self_attn.kv_b_proj", true));
  }
}

std::string fault(const std::string& path, const Json& value) {
  Json json = parse_json(kKimi, "test");
  json[Json::json_pointer(path)] = value;
  return parse(json.dump()).unsupported;
}

TEST(Quantization, other_schemes_are_named) {
  const std::string weights = "/config_groups/group_0/weights/";
  EXPECT_THAT(fault("/format", "nvfp4-pack-quantized"), HasSubstr("nvfp4-pack-quantized"));
  EXPECT_THAT(fault(weights + "type", "float"), HasSubstr("float"));
  EXPECT_THAT(fault(weights + "symmetric", false), HasSubstr("asymmetric"));
  EXPECT_THAT(fault(weights + "num_bits", 3), HasSubstr("3-bit"));
  EXPECT_THAT(fault(weights + "actorder", "group"), HasSubstr("actorder"));
  EXPECT_EQ(fault(weights + "actorder", "weight"), "") << "the columns lie in their order";
  EXPECT_THAT(fault(weights + "strategy", "tensor"), HasSubstr("tensor"));
  EXPECT_THAT(fault("/config_groups/group_0/input_activations", {{"num_bits", 8}, {"dynamic", false}}),
              HasSubstr("static"));
  EXPECT_THAT(fault("/kv_cache_scheme", {{"num_bits", 8}}), HasSubstr("kv_cache_scheme"));
  EXPECT_THAT(fault("/quantization_status", "frozen"), HasSubstr("frozen"));
  EXPECT_THAT(parse(R"({"quant_method": "awq", "bits": 4})").unsupported, HasSubstr("awq"));
}

TEST(Quantization, malformed_values_are_refused) {
  const auto refusal = [](const std::string& path, const Json& value) -> std::string {
    try {
      fault(path, value);
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "not refused";
  };
  EXPECT_THAT(refusal("/config_groups", 3), HasSubstr("config_groups"));
  EXPECT_THAT(refusal("/ignore", "lm_head"), HasSubstr("ignore"));
  EXPECT_THAT(refusal("/ignore", Json::array({"re:("})), HasSubstr("re:("));
  EXPECT_THAT(refusal("/config_groups/group_0/weights/num_bits", "four"), HasSubstr("num_bits"));
  EXPECT_THAT(refusal("/config_groups/group_0/weights/group_size", 0), HasSubstr("group_size"));
}

// An expression that takes a backtracking matcher more steps than there are atoms.
TEST(Quantization, expressions_take_polynomial_time) {
  const ModulePattern pattern("re:(a*)*(a*)*(a*)*b");
  EXPECT_FALSE(pattern.matches(std::string(40, 'a')));
  EXPECT_TRUE(pattern.matches(std::string(40, 'a') + "b and more"));
}

TEST(Quantization, expressions_match_from_the_beginning) {
  EXPECT_TRUE(ModulePattern("re:model\\.layers\\.[0-9]+\\.mlp").matches("model.layers.12.mlp.up_proj"));
  EXPECT_FALSE(ModulePattern("re:layers").matches("model.layers.12"));
  EXPECT_TRUE(ModulePattern("re:.*mlp\\.gate$").matches("model.layers.12.mlp.gate"));
  EXPECT_FALSE(ModulePattern("re:.*mlp\\.gate$").matches("model.layers.12.mlp.gate_proj"));
  EXPECT_FALSE(ModulePattern("re:.*mlp\\.gate$").matches("model.layers.12.mlp_gate"));
  EXPECT_FALSE(ModulePattern("Linear").matches("Linear"));
}

}  // namespace
}  // namespace fathom::config

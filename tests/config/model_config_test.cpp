#include "config/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/error.h"

namespace fathom::config {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::filesystem::path kData = std::filesystem::path(FATHOM_SOURCE_DIR) / "tests/config/data";

Json published(const std::string& name) { return read_json_file(kData / (name + ".json")); }

std::string error_of(const Json& json) {
  try {
    parse_model_config(json, "config.json");
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "no error";
}

std::string error_with(const std::function<void(Json&)>& change, const std::string& base = "deepseek-v3") {
  Json json = published(base);
  change(json);
  return error_of(json);
}

TEST(ModelConfig, reads_deepseek_v3_as_published) {
  const ModelConfig config = read_model_config(kData / "deepseek-v3.json");
  EXPECT_EQ(config.model_type, "deepseek_v3");
  EXPECT_EQ(config.vocab_size, 129280);
  EXPECT_EQ(config.hidden_size, 7168);
  EXPECT_EQ(config.q_lora_rank, 1536);
  EXPECT_EQ(config.qk_head_dim(), 192);
  EXPECT_EQ(config.latent_dim(), 576);
  EXPECT_EQ(config.num_nextn_predict_layers, 1);
  EXPECT_EQ(config.n_group, 8);
  EXPECT_EQ(config.topk_group, 4);
  EXPECT_TRUE(config.has_correction_bias());
  EXPECT_FALSE(config.aux_loss_alpha.has_value());  // NUM-7: the recipe's default holds
  EXPECT_THAT(config.eos_token_ids, ElementsAre(1));
  EXPECT_EQ(config.bos_token_id, 0);
  EXPECT_EQ(config.pad_token_id, -1);
  ASSERT_TRUE(config.quantization.has_value());
  EXPECT_EQ(config.quantization->quant_method, "fp8");
  EXPECT_THAT(config.quantization->weight_block_size, ElementsAre(128, 128));
  EXPECT_FALSE(config.is_moe_layer(2));
  EXPECT_TRUE(config.is_moe_layer(3));
  EXPECT_TRUE(config.is_moe_layer(61));
}

TEST(ModelConfig, reads_the_other_models_of_the_family) {
  const ModelConfig r1 = read_model_config(kData / "deepseek-r1.json");
  EXPECT_EQ(r1.n_routed_experts, 256);
  EXPECT_FALSE(read_model_config(kData / "deepseek-v3.1.json").quantization.has_value());

  const ModelConfig moonlight = read_model_config(kData / "moonlight.json");
  EXPECT_EQ(moonlight.q_lora_rank, 0);
  EXPECT_EQ(moonlight.rms_norm_eps, 1e-5);
  EXPECT_FALSE(moonlight.rope_scaling.has_value());
  EXPECT_EQ(moonlight.rope_theta, 50000);
  EXPECT_EQ(moonlight.aux_loss_alpha, 0.001);
  EXPECT_EQ(moonlight.routed_scaling_factor, 2.446);

  const ModelConfig kimi = read_model_config(kData / "kimi-k2.json");
  EXPECT_EQ(kimi.model_type, "kimi_k2");
  EXPECT_EQ(kimi.n_routed_experts, 384);
  EXPECT_EQ(kimi.num_attention_heads, 64);
  EXPECT_EQ(kimi.rope_scaling->beta_fast, 1);

  const ModelConfig v2 = read_model_config(kData / "deepseek-v2-lite.json");
  EXPECT_EQ(v2.topk_method, TopkMethod::greedy);
  EXPECT_EQ(v2.scoring_func, ScoringFunc::softmax);
  EXPECT_FALSE(v2.norm_topk_prob);
  EXPECT_FALSE(v2.has_correction_bias());
}

TEST(ModelConfig, what_transformers_5_writes_means_the_same) {
  for (const std::string name : {"deepseek-v3", "moonlight", "kimi-k2", "deepseek-v2-lite"}) {
    const ModelConfig a = parse_model_config(published(name), name);
    const ModelConfig b = parse_model_config(published("transformers5-" + name), name);
    Json left = to_json(a), right = to_json(b);
    for (const char* key : {"rope_theta", "rope_scaling", "n_group", "topk_group", "topk_method",
                            "q_lora_rank", "torch_dtype", "routed_scaling_factor", "num_nextn_predict_layers",
                            "scoring_func", "eos_token_id", "rms_norm_eps", "max_position_embeddings"})
      EXPECT_EQ(left[key], right[key]) << name << " " << key;
    EXPECT_EQ(a.rope_inv_freq(), b.rope_inv_freq()) << name;
    EXPECT_EQ(a.softmax_scale(), b.softmax_scale()) << name;
  }
}

TEST(ModelConfig, INF_2_yarn_of_v3) {
  const ModelConfig config = read_model_config(kData / "deepseek-v3.json");
  const std::vector<double> inv_freq = config.rope_inv_freq();
  ASSERT_EQ(inv_freq.size(), 32U);
  const std::vector<std::pair<size_t, double>> expected = {{0, 1},
                                                           {9, 0.0749894209},
                                                           {10, 0.0562341325},
                                                           {11, 0.0390069266},
                                                           {16, 0.0055},
                                                           {20, 0.000790569415},
                                                           {22, 0.000177827941},
                                                           {23, 3.33380358e-05},
                                                           {31, 3.33380358e-06}};
  for (const auto& [pair, value] : expected) EXPECT_NEAR(inv_freq[pair] / value, 1, 2e-9) << "pair " << pair;
  EXPECT_EQ(config.rope_amplitude(), 1);
  EXPECT_NEAR(config.softmax_scale(), 0.13523378, 1e-8);
}

TEST(ModelConfig, rope_equals_transformers) {
  const Json golden = read_json_file(kData / "rope-golden.json");
  for (const Json& expected : golden["cases"]) {
    const std::string name = expected["name"];
    const ModelConfig config = parse_model_config(expected["config"], name);
    EXPECT_NEAR(config.rope_amplitude(), expected["amplitude"].get<double>(), 1e-12) << name;
    EXPECT_NEAR(config.softmax_scale(), expected["softmax_scale"].get<double>(), 1e-12) << name;
    const std::vector<double> inv_freq = config.rope_inv_freq();
    ASSERT_EQ(inv_freq.size(), expected["inv_freq"].size()) << name;
    for (size_t j = 0; j < inv_freq.size(); ++j)  // theirs is computed in float32
      EXPECT_NEAR(inv_freq[j] / expected["inv_freq"][j].get<double>(), 1, 2e-6) << name << " pair " << j;
  }
}

TEST(ModelConfig, WT_12_other_architectures_are_refused_by_name) {
  const std::string v32 = error_of(published("deepseek-v3.2"));
  EXPECT_THAT(v32, HasSubstr("DeepseekV32ForCausalLM"));
  EXPECT_THAT(v32, HasSubstr("deepseek_v32"));
  EXPECT_THAT(v32, HasSubstr("kimi_k2"));
  const std::string qwen = error_of(
      {{"architectures", Json::array({"Qwen2ForCausalLM"})}, {"model_type", "qwen2"}, {"hidden_size", 8}});
  EXPECT_THAT(qwen, HasSubstr("Qwen2ForCausalLM"));
  EXPECT_THAT(qwen, HasSubstr("deepseek_v3"));
  EXPECT_THAT(error_of(Json::object()), HasSubstr("model_type is missing"));
  EXPECT_THAT(error_with([](Json& json) { json["architectures"][0] = "DeepseekV2ForCausalLM"; }),
              HasSubstr("architectures says DeepseekV2ForCausalLM but model_type says deepseek_v3"));
}

TEST(ModelConfig, each_required_key_is_named_when_missing_or_null) {
  for (const std::string key :
       {"vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers",
        "num_attention_heads", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
        "n_group", "topk_group", "num_experts_per_tok", "first_k_dense_replace", "max_position_embeddings"}) {
    EXPECT_THAT(error_with([&](Json& json) { json.erase(key); }), HasSubstr(key + " is missing"));
    EXPECT_THAT(error_with([&](Json& json) { json[key] = nullptr; }), HasSubstr(key + " is null"));
    EXPECT_THAT(error_with([&](Json& json) { json[key] = "12"; }),
                HasSubstr(key + " must be a whole number"));
    EXPECT_THAT(error_with([&](Json& json) { json[key] = -1; }), HasSubstr(key + " is -1"));
    EXPECT_THAT(error_with([&](Json& json) { json[key] = 1.5; }), HasSubstr(key + " must be a whole number"));
  }
  EXPECT_THAT(error_with([](Json& json) { json.erase("q_lora_rank"); }), HasSubstr("q_lora_rank is missing"));
}

TEST(ModelConfig, contradictions_are_named) {
  const auto refused = [](const std::string& key, const Json& value) {
    return error_with([&](Json& json) { json[key] = value; });
  };
  EXPECT_THAT(refused("n_group", 7), HasSubstr("n_group is 7, which does not divide n_routed_experts 256"));
  EXPECT_THAT(refused("topk_group", 9), HasSubstr("topk_group is 9, more than n_group 8"));
  EXPECT_THAT(refused("num_experts_per_tok", 129), HasSubstr("only 128 experts can be chosen"));
  EXPECT_THAT(refused("n_group", 256), HasSubstr("groups of one expert"));
  EXPECT_THAT(refused("attention_bias", true), HasSubstr("attention_bias is true"));
  EXPECT_THAT(refused("tie_word_embeddings", true), HasSubstr("tie_word_embeddings is true"));
  EXPECT_THAT(refused("tie_word_embeddings", "no"), HasSubstr("tie_word_embeddings must be true or false"));
  EXPECT_THAT(refused("num_key_value_heads", 8), HasSubstr("num_key_value_heads is 8"));
  EXPECT_THAT(refused("hidden_act", "gelu"), HasSubstr("hidden_act is \"gelu\""));
  EXPECT_THAT(refused("topk_method", "greedy"),
              HasSubstr("topk_method is \"greedy\"; supported here: noaux_tc"));
  EXPECT_THAT(refused("scoring_func", "softmax"), HasSubstr("scoring_func is \"softmax\""));
  EXPECT_THAT(refused("qk_rope_head_dim", 63), HasSubstr("must be even"));
  EXPECT_THAT(refused("eos_token_id", 129280), HasSubstr("eos_token_id"));
  EXPECT_THAT(refused("eos_token_id", Json::array({1, "x"})), HasSubstr("eos_token_id"));
  EXPECT_THAT(refused("rope_theta", 0), HasSubstr("rope_theta is 0"));
  EXPECT_THAT(refused("torch_dtype", "int3"), HasSubstr("torch_dtype is \"int3\""));
  EXPECT_THAT(refused("vocab_size", 1e300), HasSubstr("vocab_size must be a whole number"));
  EXPECT_THAT(refused("vocab_size", 18446744073709551615ULL), HasSubstr("too large"));
  EXPECT_THAT(refused("rope_scaling", Json::array()), HasSubstr("rope_scaling: must be an object"));
  EXPECT_THAT(refused("rope_scaling", {{"type", "longrope"}, {"factor", 4}}), HasSubstr("\"longrope\""));
  EXPECT_THAT(refused("quantization_config", {{"quant_method", "fp8"}}),
              HasSubstr("weight_block_size is missing"));
  EXPECT_THAT(refused("quantization_config", {{"quant_method", "fp8"}, {"weight_block_size", {128, 0}}}),
              HasSubstr("weight_block_size"));
  EXPECT_THAT(error_of(Json::array()), HasSubstr("must be an object"));
}

TEST(ModelConfig, absent_optional_keys_take_the_defaults_of_the_type) {
  Json json = published("deepseek-v3");
  for (const char* key : {"topk_method", "scoring_func", "norm_topk_prob", "routed_scaling_factor",
                          "rms_norm_eps", "rope_theta", "rope_scaling", "num_nextn_predict_layers",
                          "quantization_config", "torch_dtype", "architectures"})
    json.erase(key);
  const ModelConfig v3 = parse_model_config(json, "v3");
  EXPECT_EQ(v3.topk_method, TopkMethod::noaux_tc);
  EXPECT_EQ(v3.scoring_func, ScoringFunc::sigmoid);
  EXPECT_TRUE(v3.norm_topk_prob);
  EXPECT_EQ(v3.routed_scaling_factor, 2.5);
  EXPECT_EQ(v3.num_nextn_predict_layers, 0);
  EXPECT_EQ(v3.rope_theta, 10000);
  EXPECT_EQ(v3.dtype, "bfloat16");

  json = published("deepseek-v2-lite");
  for (const char* key : {"topk_method", "scoring_func", "norm_topk_prob", "n_group", "topk_group"})
    json.erase(key);
  json["n_group"] = nullptr;
  const ModelConfig v2 = parse_model_config(json, "v2");
  EXPECT_EQ(v2.topk_method, TopkMethod::greedy);
  EXPECT_EQ(v2.scoring_func, ScoringFunc::softmax);
  EXPECT_EQ(v2.n_group, 1);
}

TEST(ModelConfig, group_limited_greedy_of_v2) {
  Json json = published("deepseek-v2-lite");
  json["topk_method"] = "group_limited_greedy";
  json["n_group"] = 8;
  json["topk_group"] = 3;
  EXPECT_EQ(parse_model_config(json, "v2").topk_method, TopkMethod::group_limited_greedy);
}

TEST(ModelConfig, json_round_trip_keeps_every_key_and_value) {
  for (const std::string name : {"deepseek-v3", "deepseek-r1", "moonlight", "kimi-k2", "deepseek-v2-lite"}) {
    const Json before = published(name);
    const Json after = to_json(parse_model_config(before, name));
    for (const auto& [key, value] : before.items())
      EXPECT_EQ(after.value(key, Json()), value) << name << " " << key;
    EXPECT_EQ(to_json(parse_model_config(after, name)), after) << name;
  }
  ModelConfig config = read_model_config(kData / "deepseek-v3.json");
  config.quantization.reset();
  EXPECT_FALSE(to_json(config).contains("quantization_config"));
}

}  // namespace
}  // namespace fathom::config

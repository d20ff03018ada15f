#include "config/model_config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "config/json_reader.h"

namespace fathom::config {
namespace {

constexpr const char* kSupported =
    "deepseek_v3 (DeepSeek-V3, V3-0324, V3.1, R1, Moonlight), deepseek_v2 (DeepSeek-V2, V2-Lite, V2.5), "
    "kimi_k2";

// Bounds that no model of the family comes near; they keep products of dimensions inside 64 bits.
constexpr int64_t kMaxDim = 1 << 20;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxLayers = 10000;
constexpr int64_t kMaxExperts = 1 << 16;
constexpr int64_t kMaxPositions = int64_t{1} << 40;
constexpr double kMaxFloat = 1e30;

// The model_type, after checking that architecture and type are of the family (WT-12).
std::string read_model_type(const JsonReader& reader, const std::string& where) {
  std::string architecture;
  if (const Json* list = reader.find("architectures")) {
    if (!list->is_array() || list->empty() || !list->front().is_string())
      reader.fail("architectures", "must be a list of names");
    architecture = list->front().get<std::string>();
  }
  std::string model_type = reader.text_or("model_type", "");
  if (model_type.empty() && architecture.empty())
    throw ConfigError("{}: model_type is missing; supported: {}", where, kSupported);
  if (model_type.empty()) {
    if (architecture == "DeepseekV3ForCausalLM") model_type = "deepseek_v3";
    if (architecture == "DeepseekV2ForCausalLM") model_type = "deepseek_v2";
  }
  const bool known_type =
      model_type == "deepseek_v3" || model_type == "deepseek_v2" || model_type == "kimi_k2";
  const bool known_architecture = architecture.empty() || architecture == "DeepseekV3ForCausalLM" ||
                                  architecture == "DeepseekV2ForCausalLM" ||
                                  architecture == "KimiK2ForCausalLM";
  if (!known_type || !known_architecture)
    throw ConfigError(
        "{}: the architecture {} (model_type {}) is outside the DeepSeek-V3 family; supported: {}", where,
        architecture.empty() ? "(not named)" : architecture, model_type.empty() ? "(not named)" : model_type,
        kSupported);
  if ((architecture == "DeepseekV2ForCausalLM") != (model_type == "deepseek_v2") && !architecture.empty())
    throw ConfigError("{}: architectures says {} but model_type says {}", where, architecture, model_type);
  return model_type;
}

// rope_parameters (transformers 5) or rope_scaling + rope_theta (as published). Where both stand, they come
// from one writer; rope_parameters wins, as in transformers.
void read_rope(const JsonReader& reader, const std::string& where, ModelConfig& config) {
  config.rope_theta = reader.number_or("rope_theta", 10000, 1.0001, kMaxFloat);
  config.rope_interleave = reader.boolean_or("rope_interleave", true);
  const std::string key = reader.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const Json* object = reader.find(key);
  if (!object) return;
  const JsonReader rope(*object, where + ": " + key);
  config.rope_theta = rope.number_or("rope_theta", config.rope_theta, 1.0001, kMaxFloat);
  const std::string type = rope.text_or("rope_type", rope.text_or("type", "default"));
  if (type == "default") return;
  if (type != "yarn")
    throw ConfigError("{}: {}.rope_type is \"{}\"; supported: default, yarn", where, key, type);
  if (rope.number_or("partial_rotary_factor", 1, 0, 1) != 1)
    rope.fail("partial_rotary_factor", "is not 1; only whole rope heads are supported");

  RopeScaling yarn;
  yarn.original_max_position_embeddings =
      rope.integer_or("original_max_position_embeddings", config.max_position_embeddings, 1, kMaxPositions);
  const double span = static_cast<double>(config.max_position_embeddings) /
                      static_cast<double>(yarn.original_max_position_embeddings);
  yarn.factor = rope.number_or("factor", span, 1, 1e9);
  // transformers treats 0 as absent in all four.
  const auto positive_or = [&](const char* name, double fallback) {
    const double value = rope.number_or(name, 0, 0, 1e9);
    return value == 0 ? fallback : value;
  };
  yarn.beta_fast = positive_or("beta_fast", 32);
  yarn.beta_slow = positive_or("beta_slow", 1);
  yarn.mscale = positive_or("mscale", 0);
  yarn.mscale_all_dim = positive_or("mscale_all_dim", 0);
  if (yarn.beta_fast < yarn.beta_slow) rope.fail("beta_fast", "is below beta_slow");
  if (rope.has("attention_factor")) yarn.attention_factor = rope.number("attention_factor", 1e-9, 1e9);
  yarn.truncate = rope.boolean_or("truncate", true);
  config.rope_scaling = yarn;
}

void read_router(const JsonReader& reader, ModelConfig& config) {
  const bool is_v2 = config.model_type == "deepseek_v2";
  config.moe_intermediate_size = reader.integer("moe_intermediate_size", 1, kMaxDim);
  config.num_experts_per_tok = reader.integer("num_experts_per_tok", 1, kMaxExperts);
  config.first_k_dense_replace = reader.integer("first_k_dense_replace", 0, kMaxLayers);
  config.moe_layer_freq = reader.integer_or("moe_layer_freq", 1, 1, kMaxLayers);
  // transformers' V2 leaves the groups out; its V3 has defaults of the 671B shape, which would be a wrong
  // guess elsewhere.
  config.n_group =
      is_v2 ? reader.integer_or("n_group", 1, 1, kMaxExperts) : reader.integer("n_group", 1, kMaxExperts);
  config.topk_group = is_v2 ? reader.integer_or("topk_group", 1, 1, kMaxExperts)
                            : reader.integer("topk_group", 1, kMaxExperts);
  config.routed_scaling_factor = reader.number_or("routed_scaling_factor", is_v2 ? 1.0 : 2.5, 1e-9, 1e9);
  config.norm_topk_prob = reader.boolean_or("norm_topk_prob", !is_v2);
  // Each type has one family of routers; another combination would be read differently by transformers.
  if (is_v2) {
    config.topk_method = reader.choice<TopkMethod>(
        "topk_method", TopkMethod::greedy,
        {{"greedy", TopkMethod::greedy}, {"group_limited_greedy", TopkMethod::group_limited_greedy}});
    config.scoring_func =
        reader.choice<ScoringFunc>("scoring_func", ScoringFunc::softmax, {{"softmax", ScoringFunc::softmax}});
    if (config.norm_topk_prob)
      reader.fail("norm_topk_prob",
                  "is true, which implementations of deepseek_v2 disagree on; use deepseek_v3");
  } else {
    config.topk_method =
        reader.choice<TopkMethod>("topk_method", TopkMethod::noaux_tc, {{"noaux_tc", TopkMethod::noaux_tc}});
    config.scoring_func =
        reader.choice<ScoringFunc>("scoring_func", ScoringFunc::sigmoid, {{"sigmoid", ScoringFunc::sigmoid}});
  }

  const int64_t experts = config.n_routed_experts;
  if (experts % config.n_group != 0)
    reader.fail("n_group",
                fmt::format("is {}, which does not divide n_routed_experts {}", config.n_group, experts));
  if (config.topk_group > config.n_group)
    reader.fail("topk_group", fmt::format("is {}, more than n_group {}", config.topk_group, config.n_group));
  const int64_t group_size = experts / config.n_group;
  const bool by_groups = config.n_group > 1 && config.topk_method != TopkMethod::greedy;
  if (by_groups && config.topk_method == TopkMethod::noaux_tc && group_size < 2)
    reader.fail("n_group",
                fmt::format("is {}: groups of one expert; a group's score is the sum of its best two",
                            config.n_group));
  const int64_t eligible = by_groups ? group_size * config.topk_group : experts;
  if (config.num_experts_per_tok > eligible)
    reader.fail("num_experts_per_tok",
                fmt::format("is {}, but only {} experts can be chosen from ({} groups of {})",
                            config.num_experts_per_tok, eligible, by_groups ? config.topk_group : 1,
                            by_groups ? group_size : experts));
}

// Features that the family's code has a key for but none of its models uses.
void refuse_variants(const JsonReader& reader, const ModelConfig& config) {
  for (const char* key : {"attention_bias", "mlp_bias", "tie_word_embeddings"})
    if (reader.boolean_or(key, false)) reader.fail(key, "is true, which is not supported; set it to false");
  const std::string act = reader.text_or("hidden_act", "silu");
  if (act != "silu") reader.fail("hidden_act", fmt::format("is \"{}\"; supported here: silu", act));
  const int64_t kv_heads = reader.integer_or("num_key_value_heads", config.num_attention_heads, 1, kMaxDim);
  if (kv_heads != config.num_attention_heads)
    reader.fail("num_key_value_heads", fmt::format("is {}, but multi-head latent attention has as many as "
                                                   "num_attention_heads ({})",
                                                   kv_heads, config.num_attention_heads));
  if (reader.number_or("attention_dropout", 0, 0, 1) != 0)
    reader.fail("attention_dropout", "is not 0; dropout is not supported");
}

void read_tokens(const JsonReader& reader, ModelConfig& config) {
  const int64_t last = config.vocab_size - 1;
  config.bos_token_id = reader.integer_or("bos_token_id", -1, -1, last);
  config.pad_token_id = reader.integer_or("pad_token_id", -1, -1, last);
  const Json* eos = reader.find("eos_token_id");
  if (eos && eos->is_array()) {
    for (const Json& id : *eos) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > last)
        reader.fail("eos_token_id", fmt::format("must hold token ids in 0 .. {}", last));
      config.eos_token_ids.push_back(id.get<int64_t>());
    }
  } else if (eos) {
    config.eos_token_ids.push_back(reader.integer("eos_token_id", 0, last));
  }
}

std::string read_dtype(const JsonReader& reader) {
  const std::string key = reader.has("dtype") ? "dtype" : "torch_dtype";
  std::string dtype = reader.text_or(key, "bfloat16");
  if (dtype != "bfloat16" && dtype != "float32" && dtype != "float16")
    reader.fail(key, fmt::format("is \"{}\"; supported: bfloat16, float32, float16", dtype));
  return dtype;
}

double mscale(double factor, double m) { return factor <= 1 ? 1.0 : 0.1 * m * std::log(factor) + 1.0; }

}  // namespace

ModelConfig parse_model_config(const Json& object, const std::string& where) {
  const JsonReader reader(object, where);
  ModelConfig config;
  config.model_type = read_model_type(reader, where);
  config.vocab_size = reader.integer("vocab_size", 1, kMaxVocab);
  config.hidden_size = reader.integer("hidden_size", 1, kMaxDim);
  config.intermediate_size = reader.integer("intermediate_size", 1, kMaxDim);
  config.num_hidden_layers = reader.integer("num_hidden_layers", 1, kMaxLayers);
  config.num_nextn_predict_layers = reader.integer_or("num_nextn_predict_layers", 0, 0, kMaxLayers);
  config.num_attention_heads = reader.integer("num_attention_heads", 1, kMaxDim);
  if (!reader.has("q_lora_rank") && !reader.is_null("q_lora_rank"))
    reader.fail("q_lora_rank", "is missing; null means no query compression");
  config.q_lora_rank = reader.integer_or("q_lora_rank", 0, 0, kMaxDim);
  config.kv_lora_rank = reader.integer("kv_lora_rank", 1, kMaxDim);
  config.qk_nope_head_dim = reader.integer("qk_nope_head_dim", 1, kMaxDim);
  config.qk_rope_head_dim = reader.integer("qk_rope_head_dim", 2, kMaxDim);
  if (config.qk_rope_head_dim % 2 != 0)
    reader.fail("qk_rope_head_dim", fmt::format("is {}; it must be even", config.qk_rope_head_dim));
  config.v_head_dim = reader.integer("v_head_dim", 1, kMaxDim);
  config.n_routed_experts = reader.integer_or("n_routed_experts", 0, 0, kMaxExperts);
  config.n_shared_experts = reader.integer_or("n_shared_experts", 0, 0, kMaxExperts);
  config.max_position_embeddings = reader.integer("max_position_embeddings", 1, kMaxPositions);
  if (config.n_routed_experts > 0) read_router(reader, config);
  if (config.n_routed_experts == 0 && config.model_type == "deepseek_v2") {
    config.topk_method = TopkMethod::greedy;
    config.scoring_func = ScoringFunc::softmax;
  }
  if (reader.has("aux_loss_alpha")) config.aux_loss_alpha = reader.number("aux_loss_alpha", 0, 1e6);
  config.seq_aux = reader.boolean_or("seq_aux", true);
  config.rms_norm_eps = reader.number_or("rms_norm_eps", 1e-6, 0, 1);
  config.initializer_range = reader.number_or("initializer_range", 0.02, 0, 1e3);
  read_rope(reader, where, config);
  refuse_variants(reader, config);
  read_tokens(reader, config);
  config.dtype = read_dtype(reader);
  if (const Json* quantization = reader.find("quantization_config"))
    config.quantization = parse_quantization(*quantization, where + ": quantization_config");
  config.raw = object;
  return config;
}

ModelConfig read_model_config(const std::filesystem::path& path) {
  std::error_code ignored;
  const std::filesystem::path file =
      std::filesystem::is_directory(path, ignored) ? path / "config.json" : path;
  return parse_model_config(read_json_file(file), file.string());
}

bool ModelConfig::is_moe_layer(int64_t layer) const {
  return n_routed_experts > 0 && layer >= first_k_dense_replace && layer % moe_layer_freq == 0;
}

double ModelConfig::softmax_scale() const {
  const double plain = 1.0 / std::sqrt(static_cast<double>(qk_head_dim()));
  if (!rope_scaling || rope_scaling->mscale_all_dim == 0) return plain;
  const double m = mscale(rope_scaling->factor, rope_scaling->mscale_all_dim);
  return plain * m * m;
}

double ModelConfig::rope_amplitude() const {
  if (!rope_scaling) return 1;
  const RopeScaling& yarn = *rope_scaling;
  if (yarn.attention_factor) return *yarn.attention_factor;
  if (yarn.mscale != 0 && yarn.mscale_all_dim != 0)
    return mscale(yarn.factor, yarn.mscale) / mscale(yarn.factor, yarn.mscale_all_dim);
  return mscale(yarn.factor, 1);
}

std::vector<double> ModelConfig::rope_inv_freq() const {
  const int64_t pairs = qk_rope_head_dim / 2;
  const double dim = static_cast<double>(qk_rope_head_dim);
  std::vector<double> result(static_cast<size_t>(pairs));
  for (int64_t j = 0; j < pairs; ++j)
    result[static_cast<size_t>(j)] = std::pow(rope_theta, -2.0 * static_cast<double>(j) / dim);
  if (!rope_scaling) return result;

  // YaRN §3.2: the pair that turns `rotations` times within the original length.
  const RopeScaling& yarn = *rope_scaling;
  const auto pair_of = [&](double rotations) {
    return dim *
           std::log(static_cast<double>(yarn.original_max_position_embeddings) /
                    (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(rope_theta));
  };
  double low = pair_of(yarn.beta_fast), high = pair_of(yarn.beta_slow);
  if (yarn.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  for (int64_t j = 0; j < pairs; ++j) {
    const double ramp = std::clamp((static_cast<double>(j) - low) / (high - low), 0.0, 1.0);
    double& inv_freq = result[static_cast<size_t>(j)];
    inv_freq = inv_freq / yarn.factor * ramp + inv_freq * (1 - ramp);
  }
  return result;
}

}  // namespace fathom::config

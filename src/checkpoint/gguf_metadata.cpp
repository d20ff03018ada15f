#include "checkpoint/gguf_metadata.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "tokenizer/listing.h"
#include "tokenizer/tokenizer.h"

namespace fathom::checkpoint {
namespace {

using config::ModelConfig;
using config::ScoringFunc;
using config::TopkMethod;
using formats::GgufMetadata;
using formats::GgufValue;

constexpr const char* kArchitecture = "deepseek2";
constexpr double kLatentNormEps = 1e-6;  // of the norms of the two latents, whatever rms_norm_eps says
enum GatingFunction { kSoftmax = 1, kSigmoid = 2 };
enum TokenType { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

// llama.cpp takes models of these depths for V2-Lite and its kin, and looks for no compressed query in them.
bool is_read_as_lite(const ModelConfig& model) {
  return model.num_hidden_layers == 26 || model.num_hidden_layers == 27 ||
         (model.num_hidden_layers == 48 && model.vocab_size == 128256);
}

bool has_experts(const ModelConfig& model) {
  return model.n_routed_experts > 0 && model.first_k_dense_replace < model.num_hidden_layers;
}

// Groups that leave some experts out.
bool chooses_groups(const ModelConfig& model) {
  return has_experts(model) && model.topk_method != TopkMethod::greedy && model.n_group > 1 &&
         model.topk_group < model.n_group;
}

void check_model(const ModelConfig& model, const std::string& where) {
  if (model.q_lora_rank > 0 && is_read_as_lite(model))
    throw ConfigError(
        "{}: num_hidden_layers: llama.cpp takes a model of {} layers for DeepSeek-V2-Lite, which has no "
        "q_lora_rank "
        "(here {}): use --layers to keep another number of layers",
        where, model.num_hidden_layers, model.q_lora_rank);
  if (has_experts(model) && model.moe_layer_freq != 1)
    throw ConfigError("{}: moe_layer_freq: {} is not known to llama.cpp, only 1", where,
                      model.moe_layer_freq);
  if (has_experts(model) && model.n_shared_experts == 0)
    throw ConfigError("{}: n_shared_experts: llama.cpp wants at least one", where);
  if (chooses_groups(model) && model.n_routed_experts / model.n_group < 2)
    throw ConfigError("{}: n_group: llama.cpp wants groups of at least two experts", where);
  if (model.rope_scaling && !model.rope_scaling->truncate)
    throw ConfigError("{}: rope_scaling.truncate: false is not known to llama.cpp", where);
  if (chooses_groups(model) && model.topk_method == TopkMethod::group_limited_greedy)
    log::warning(
        "{}: llama.cpp chooses groups by their two best experts, this model by the best one: outputs differ",
        where);
  if (model.rms_norm_eps != kLatentNormEps)
    log::info("{}: llama.cpp norms the latents with rms_norm_eps {}, not {}: outputs differ slightly", where,
              model.rms_norm_eps, kLatentNormEps);
}

// llama.cpp multiplies cos and sin by attn_factor and the scores by (attn_factor * (1 + 0.1 m ln factor))^2, m being
// yarn_log_multiplier / 0.1. Both are chosen so that this is rope_amplitude() and softmax_scale(): for the published
// models, whose amplitude is 1, m is mscale_all_dim.
void add_yarn(const ModelConfig& model, const std::function<void(const char*, GgufValue)>& add) {
  const config::RopeScaling& yarn = *model.rope_scaling;
  add("rope.scaling.type", GgufValue::text("yarn"));
  add("rope.scaling.factor", GgufValue::f32(static_cast<float>(yarn.factor)));
  add("rope.scaling.original_context_length",
      GgufValue::u32(static_cast<uint64_t>(yarn.original_max_position_embeddings)));
  add("rope.scaling.yarn_beta_fast", GgufValue::f32(static_cast<float>(yarn.beta_fast)));
  add("rope.scaling.yarn_beta_slow", GgufValue::f32(static_cast<float>(yarn.beta_slow)));
  if (yarn.factor <= 1) return;
  const double amplitude = model.rope_amplitude();
  const double scores =
      std::sqrt(model.softmax_scale() * std::sqrt(static_cast<double>(model.qk_head_dim())));
  const double wanted = (scores / amplitude - 1) / (0.1 * std::log(yarn.factor));
  // The rounding of roots and logarithms is not to hide what the config says.
  const bool is_published = std::abs(amplitude - 1) < 1e-12 && std::abs(wanted - yarn.mscale_all_dim) < 1e-9;
  const double multiplier = is_published ? yarn.mscale_all_dim : wanted;
  double factor = amplitude;
  if (multiplier != 0)
    add("rope.scaling.yarn_log_multiplier", GgufValue::f32(static_cast<float>(0.1 * multiplier)));
  else
    factor /= 1 + 0.1 * std::log(yarn.factor);  // what llama.cpp takes where there is no multiplier
  if (std::abs(factor - 1) > 1e-12)
    add("rope.scaling.attn_factor", GgufValue::f32(static_cast<float>(factor)));
}

std::string chat_template(const fs::path& directory) {
  const fs::path file = directory / "chat_template.jinja", config_file = directory / "tokenizer_config.json";
  if (fs::is_regular_file(file)) return read_text_file(file);
  if (!fs::is_regular_file(config_file)) return "";
  const Json config = read_json_file(config_file);
  const Json value = config.is_object() ? config.value("chat_template", Json()) : Json();
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array())  // of templates with names
    for (const Json& item : value)
      if (item.is_object() && item.value("name", Json()) == "default" &&
          item.value("template", Json()).is_string())
        return item["template"].get<std::string>();
  return "";
}

}  // namespace

void add_gguf_model(const ModelConfig& model, const std::string& where, GgufMetadata& metadata) {
  check_model(model, where);
  const auto add = [&](const char* key, GgufValue value) {
    metadata.emplace_back(std::string(kArchitecture) + "." + key, std::move(value));
  };
  const auto add_count = [&](const char* key, int64_t value) {
    add(key, GgufValue::u32(static_cast<uint64_t>(value)));
  };
  const bool is_moe = has_experts(model);
  metadata.emplace_back("general.architecture", GgufValue::text(kArchitecture));
  metadata.emplace_back("general.type", GgufValue::text("model"));
  add_count("block_count", model.num_hidden_layers);
  add_count("context_length", model.max_position_embeddings);
  add_count("embedding_length", model.hidden_size);
  add_count("feed_forward_length", model.intermediate_size);
  add_count("attention.head_count", model.num_attention_heads);
  add_count("attention.head_count_kv", 1);  // the latent is the one key and value of all heads
  add("rope.freq_base", GgufValue::f32(static_cast<float>(model.rope_theta)));
  add("attention.layer_norm_rms_epsilon", GgufValue::f32(static_cast<float>(model.rms_norm_eps)));
  add_count("vocab_size", model.vocab_size);
  add_count("leading_dense_block_count", is_moe ? model.first_k_dense_replace : model.num_hidden_layers);
  // 0 where there is none, though their converter leaves it out: other depths than Lite's must have the key.
  if (model.q_lora_rank > 0 || !is_read_as_lite(model)) add_count("attention.q_lora_rank", model.q_lora_rank);
  add_count("attention.kv_lora_rank", model.kv_lora_rank);
  add_count("attention.key_length", model.latent_dim());
  add_count("attention.value_length", model.kv_lora_rank);
  add_count("attention.key_length_mla", model.qk_head_dim());
  add_count("attention.value_length_mla", model.v_head_dim);
  add_count("rope.dimension_count", model.qk_rope_head_dim);
  add_count("expert_feed_forward_length", is_moe ? model.moe_intermediate_size : model.intermediate_size);
  add_count("expert_shared_count", is_moe ? model.n_shared_experts : 0);
  if (is_moe) {
    add_count("expert_count", model.n_routed_experts);
    add_count("expert_used_count", model.num_experts_per_tok);
    if (chooses_groups(model)) {
      add_count("expert_group_count", model.n_group);
      add_count("expert_group_used_count", model.topk_group);
    }
    add_count("expert_gating_func", model.scoring_func == ScoringFunc::sigmoid ? kSigmoid : kSoftmax);
    add("expert_weights_scale", GgufValue::f32(static_cast<float>(model.routed_scaling_factor)));
    if (model.norm_topk_prob) add("expert_weights_norm", GgufValue::boolean(true));
  }
  if (model.rope_scaling) add_yarn(model, add);
}

void add_gguf_tokenizer(const ModelConfig& model, const fs::path& directory, GgufMetadata& metadata) {
  const auto add = [&](const char* key, GgufValue value) {
    metadata.emplace_back(std::string("tokenizer.") + key, std::move(value));
  };
  if (!tokenizer::Tokenizer::is_in(directory)) {
    log::warning("{}: there is no tokenizer in it: programs can give this GGUF token ids only",
                 directory.string());
    add("ggml.model", GgufValue::text("no_vocab"));
    return;
  }
  tokenizer::Listing listing = tokenizer::list_tokenizer(directory);
  const std::string where = listing.path.string();
  if (listing.scheme.empty())
    throw ConfigError(
        "{}: llama.cpp knows no name for the way it cuts text: only those of DeepSeek-V3, DeepSeek-V2, "
        "Kimi-K2 and "
        "GPT-2 can be written",
        where);
  if (static_cast<int64_t>(listing.tokens.size()) > model.vocab_size)
    throw ConfigError("{}: it has token ids up to {}, but the model's vocab_size is {}", where,
                      listing.tokens.size() - 1, model.vocab_size);
  using Kind = tokenizer::ListedToken::Kind;
  std::vector<std::string> merges;
  merges.reserve(listing.merges.size());
  for (const auto& [left, right] : listing.merges)
    merges.push_back(listing.tokens[static_cast<size_t>(left)].spelled + " " +
                     listing.tokens[static_cast<size_t>(right)].spelled);
  listing.tokens.resize(static_cast<size_t>(model.vocab_size));
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  for (tokenizer::ListedToken& token : listing.tokens) {
    tokens.push_back(token.kind == Kind::none ? fmt::format("[PAD{}]", tokens.size())
                                              : std::move(token.spelled));
    types.push_back(token.kind == Kind::none      ? kUnused
                    : token.kind == Kind::special ? kControl
                    : token.kind == Kind::added   ? kUserDefined
                                                  : kNormal);
  }
  add("ggml.model", GgufValue::text("gpt2"));
  add("ggml.pre", GgufValue::text(std::string(listing.scheme)));
  add("ggml.tokens", GgufValue::texts(std::move(tokens)));
  add("ggml.token_type", GgufValue::i32s(types));
  add("ggml.merges", GgufValue::texts(std::move(merges)));
  const auto add_id = [&](const char* key, int64_t id) {
    if (id >= 0 && id < model.vocab_size) add(key, GgufValue::u32(static_cast<uint64_t>(id)));
  };
  const int64_t eos = !model.eos_token_ids.empty() ? model.eos_token_ids.front() : -1;
  add_id("ggml.bos_token_id", listing.bos_id.value_or(static_cast<int32_t>(model.bos_token_id)));
  add_id("ggml.eos_token_id", listing.eos_id.value_or(static_cast<int32_t>(eos)));
  add_id("ggml.padding_token_id", model.pad_token_id);
  add("ggml.add_bos_token", GgufValue::boolean(listing.adds_bos));
  add("ggml.add_eos_token", GgufValue::boolean(false));
  if (std::string text = chat_template(directory); !text.empty())
    add("chat_template", GgufValue::text(std::move(text)));
}

}  // namespace fathom::checkpoint

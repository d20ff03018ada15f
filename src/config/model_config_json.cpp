// ModelConfig back to config.json, and the list of keys a config.json may hold.
#include <algorithm>

#include "config/model_config.h"

namespace fathom::config {
namespace {

const char* name_of(TopkMethod method) {
  switch (method) {
    case TopkMethod::greedy:
      return "greedy";
    case TopkMethod::group_limited_greedy:
      return "group_limited_greedy";
    case TopkMethod::noaux_tc:
      break;
  }
  return "noaux_tc";
}

Json id_or_null(int64_t id) { return id < 0 ? Json(nullptr) : Json(id); }

Json rope_json(const RopeScaling& yarn) {
  Json object;  // keys in the order of the published files
  if (yarn.attention_factor) object["attention_factor"] = *yarn.attention_factor;
  object["beta_fast"] = yarn.beta_fast;
  object["beta_slow"] = yarn.beta_slow;
  object["factor"] = yarn.factor;
  if (yarn.mscale != 0) object["mscale"] = yarn.mscale;
  if (yarn.mscale_all_dim != 0) object["mscale_all_dim"] = yarn.mscale_all_dim;
  object["original_max_position_embeddings"] = yarn.original_max_position_embeddings;
  if (!yarn.truncate) object["truncate"] = false;
  object["type"] = "yarn";
  return object;
}

}  // namespace

Json to_json(const ModelConfig& config) {
  Json json = config.raw.is_object() ? config.raw : Json::object();
  const bool is_v2 = config.model_type == "deepseek_v2";
  json["architectures"] = Json::array({is_v2 ? "DeepseekV2ForCausalLM" : "DeepseekV3ForCausalLM"});
  json["model_type"] = config.model_type;
  json["vocab_size"] = config.vocab_size;
  json["hidden_size"] = config.hidden_size;
  json["intermediate_size"] = config.intermediate_size;
  json["num_hidden_layers"] = config.num_hidden_layers;
  json["num_nextn_predict_layers"] = config.num_nextn_predict_layers;
  json["num_attention_heads"] = config.num_attention_heads;
  json["num_key_value_heads"] = config.num_attention_heads;
  json["q_lora_rank"] = config.q_lora_rank > 0 ? Json(config.q_lora_rank) : Json(nullptr);
  json["kv_lora_rank"] = config.kv_lora_rank;
  json["qk_nope_head_dim"] = config.qk_nope_head_dim;
  json["qk_rope_head_dim"] = config.qk_rope_head_dim;
  json["v_head_dim"] = config.v_head_dim;
  json["n_routed_experts"] = config.n_routed_experts > 0 ? Json(config.n_routed_experts) : Json(nullptr);
  json["n_shared_experts"] = config.n_shared_experts > 0 ? Json(config.n_shared_experts) : Json(nullptr);
  if (config.n_routed_experts > 0) {
    json["moe_intermediate_size"] = config.moe_intermediate_size;
    json["num_experts_per_tok"] = config.num_experts_per_tok;
    json["n_group"] = config.n_group;
    json["topk_group"] = config.topk_group;
    json["first_k_dense_replace"] = config.first_k_dense_replace;
    json["moe_layer_freq"] = config.moe_layer_freq;
    json["topk_method"] = name_of(config.topk_method);
    json["scoring_func"] = config.scoring_func == ScoringFunc::softmax ? "softmax" : "sigmoid";
    json["norm_topk_prob"] = config.norm_topk_prob;
    json["routed_scaling_factor"] = config.routed_scaling_factor;
  }
  if (config.aux_loss_alpha) json["aux_loss_alpha"] = *config.aux_loss_alpha;
  if (json.contains("seq_aux") || !config.seq_aux) json["seq_aux"] = config.seq_aux;
  json["rms_norm_eps"] = config.rms_norm_eps;
  // The published form, which every version of transformers and every other reader takes.
  json.erase("rope_parameters");
  json["rope_theta"] = config.rope_theta;
  json["rope_scaling"] = config.rope_scaling ? rope_json(*config.rope_scaling) : Json(nullptr);
  if (json.contains("rope_interleave") || !config.rope_interleave)
    json["rope_interleave"] = config.rope_interleave;
  json["max_position_embeddings"] = config.max_position_embeddings;
  json["initializer_range"] = config.initializer_range;
  json["hidden_act"] = "silu";
  json["attention_bias"] = config.attention_bias;
  json["tie_word_embeddings"] = config.tie_word_embeddings;
  json["bos_token_id"] = id_or_null(config.bos_token_id);
  if (config.eos_token_ids.size() == 1)
    json["eos_token_id"] = config.eos_token_ids.front();
  else
    json["eos_token_id"] = config.eos_token_ids.empty() ? Json(nullptr) : Json(config.eos_token_ids);
  if (json.contains("pad_token_id") || config.pad_token_id >= 0)
    json["pad_token_id"] = id_or_null(config.pad_token_id);
  json.erase("dtype");
  json["torch_dtype"] = config.dtype;
  json.erase("quantization_config");
  if (config.quantization) json["quantization_config"] = config.quantization->raw;
  return json;
}

const std::vector<std::string>& known_model_keys() {
  static const std::vector<std::string> keys = [] {
    std::vector<std::string> list = {
        // read
        "architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size",
        "moe_intermediate_size", "num_hidden_layers", "num_nextn_predict_layers", "num_attention_heads",
        "num_key_value_heads", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
        "v_head_dim", "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "n_group", "topk_group",
        "first_k_dense_replace", "moe_layer_freq", "topk_method", "scoring_func", "norm_topk_prob",
        "routed_scaling_factor", "aux_loss_alpha", "seq_aux", "rms_norm_eps", "rope_theta", "rope_scaling",
        "rope_parameters", "rope_interleave", "max_position_embeddings", "initializer_range", "hidden_act",
        "attention_bias", "mlp_bias", "attention_dropout", "tie_word_embeddings", "bos_token_id",
        "eos_token_id", "pad_token_id", "dtype", "torch_dtype", "quantization_config",
        // of transformers, without meaning here
        "auto_map", "ep_size", "head_dim", "qk_head_dim", "output_router_logits", "pretraining_tp",
        "transformers_version", "use_cache"};
    std::sort(list.begin(), list.end());
    return list;
  }();
  return keys;
}

}  // namespace fathom::config

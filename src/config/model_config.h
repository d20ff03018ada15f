// The model's shape: an HF config.json of the DeepSeek-V3 family, keys spelled as there.
// Reads the published form (rope_theta + rope_scaling) and the one transformers 5 writes (rope_parameters).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "config/quantization.h"

namespace fathom::config {

enum class ScoringFunc { sigmoid, softmax };
enum class TopkMethod { noaux_tc, greedy, group_limited_greedy };

// YaRN (arXiv 2309.00071) as DeepSeek uses it. Absent: plain RoPE.
struct RopeScaling {
  double factor = 1;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 0;          // 0: absent (both matter together only, see rope_amplitude)
  double mscale_all_dim = 0;  // 0: absent
  int64_t original_max_position_embeddings = 4096;
  std::optional<double> attention_factor;  // given: the amplitude itself
  bool truncate = true;                    // the ramp's ends are rounded outwards to whole pairs
};

struct ModelConfig {
  std::string model_type = "deepseek_v3";  // deepseek_v3 | deepseek_v2 | kimi_k2
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t moe_intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_nextn_predict_layers = 0;  // MTP modules
  int64_t num_attention_heads = 0;
  int64_t q_lora_rank = 0;  // 0: no query compression (null in the file)
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;
  int64_t n_routed_experts = 0;  // 0: every layer dense (null in the file)
  int64_t n_shared_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  int64_t first_k_dense_replace = 0;
  int64_t moe_layer_freq = 1;
  TopkMethod topk_method = TopkMethod::noaux_tc;
  ScoringFunc scoring_func = ScoringFunc::sigmoid;
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1;
  std::optional<double>
      aux_loss_alpha;  // absent in the released V3 files: the recipe's default holds (NUM-7)
  bool seq_aux = true;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  std::optional<RopeScaling> rope_scaling;
  bool rope_interleave = true;  // HF: pairs are adjacent rows in the file
  int64_t max_position_embeddings = 0;
  double initializer_range = 0.02;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  int64_t bos_token_id = -1;  // -1: none
  std::vector<int64_t> eos_token_ids;
  int64_t pad_token_id = -1;
  std::string dtype = "bfloat16";  // dtype / torch_dtype of the file
  std::optional<QuantizationConfig> quantization;
  Json raw;  // the object as read, for writing config.json back

  int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  int64_t latent_dim() const { return kv_lora_rank + qk_rope_head_dim; }  // cache values a token a layer
  // Layers are numbered as in HF files: 0..num_hidden_layers-1 the trunk, num_hidden_layers+k the MTP
  // modules.
  bool is_moe_layer(int64_t layer) const;
  int64_t num_layers_with_mtp() const { return num_hidden_layers + num_nextn_predict_layers; }
  // The router has e_score_correction_bias (V3 family; V2 has none).
  bool has_correction_bias() const { return topk_method == TopkMethod::noaux_tc; }
  // q·k scale: qk_head_dim^-0.5, times yarn mscale(factor, mscale_all_dim)^2 under YaRN.
  double softmax_scale() const;
  // Multiplier of cos and sin: attention_factor if given; mscale(factor, mscale) / mscale(factor,
  // mscale_all_dim) if both are given (INF-2); else mscale(factor, 1); 1 without YaRN.
  double rope_amplitude() const;
  // Inverse frequency of each of the qk_rope_head_dim/2 pairs, YaRN's interpolation included.
  std::vector<double> rope_inv_freq() const;
};

// `where` names the source in messages. Throws ConfigError: missing or contradictory key, wrong type or range
// (with the key), an architecture outside the family (by its name, and which are supported).
ModelConfig parse_model_config(const Json& object, const std::string& where);
// A config.json, or a checkpoint directory that holds one.
ModelConfig read_model_config(const std::filesystem::path& path);
// The keys of a config.json that Fathom reads, and those it knows and needs not (sorted): a recipe's inline
// model may hold no others.
const std::vector<std::string>& known_model_keys();
// The HF config.json text: every key of `raw` kept, ours on top; quantization_config only if
// `config.quantization`.
Json to_json(const ModelConfig& config);

}  // namespace fathom::config

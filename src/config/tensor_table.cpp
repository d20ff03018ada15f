#include "config/tensor_table.h"

#include <stdexcept>
#include <utility>

#include "base/error.h"

namespace fathom::config {
namespace {

constexpr int64_t kMaxTensors = 20'000'000;  // Kimi-K2 has 70 thousand

bool is_fp8_matrix(const TensorSpec& spec, const ModelConfig& config) {
  if (!config.quantization || config.quantization->quant_method != "fp8") return false;
  switch (spec.role) {
    case TensorRole::attention:
    case TensorRole::dense_mlp:
    case TensorRole::routed_expert:
    case TensorRole::shared_expert:
      return true;
    default:
      return false;
  }
}

// "X.weight" -> "X"
std::string module_of(const std::string& tensor) { return tensor.substr(0, tensor.rfind('.')); }

}  // namespace

int64_t TensorSpec::numel() const {
  int64_t product = 1;
  for (const int64_t extent : shape) product *= extent;
  return product;
}

bool TensorSpec::is_decayed() const { return role != TensorRole::norm && role != TensorRole::router_bias; }

bool TensorSpec::is_initialized_normal() const { return is_decayed(); }

std::string layer_prefix(int64_t layer) { return "model.layers." + std::to_string(layer) + "."; }

TensorTable::TensorTable(const ModelConfig& config) {
  const int64_t expert_tensors = config.num_layers_with_mtp() * (3 * config.n_routed_experts + 20);
  if (expert_tensors > kMaxTensors)
    throw ConfigError(
        "num_hidden_layers {} with n_routed_experts {} makes some {} tensors, more than the {} supported",
        config.num_hidden_layers, config.n_routed_experts, expert_tensors, kMaxTensors);

  const int64_t hidden = config.hidden_size, heads = config.num_attention_heads;
  const auto add_mlp = [&](const std::string& prefix, int64_t intermediate, TensorRole role, int64_t layer,
                           int64_t expert = -1) {
    add(prefix + "gate_proj.weight", {intermediate, hidden}, role, layer, expert);
    add(prefix + "up_proj.weight", {intermediate, hidden}, role, layer, expert);
    add(prefix + "down_proj.weight", {hidden, intermediate}, role, layer, expert);
  };
  const auto add_attention = [&](const std::string& prefix, int64_t layer) {
    const int64_t query_rows = heads * config.qk_head_dim();
    if (config.q_lora_rank > 0) {
      add(prefix + "q_a_proj.weight", {config.q_lora_rank, hidden}, TensorRole::attention, layer);
      add(prefix + "q_a_layernorm.weight", {config.q_lora_rank}, TensorRole::norm, layer);
      add(prefix + "q_b_proj.weight", {query_rows, config.q_lora_rank}, TensorRole::attention, layer);
    } else {
      add(prefix + "q_proj.weight", {query_rows, hidden}, TensorRole::attention, layer);
    }
    add(prefix + "kv_a_proj_with_mqa.weight", {config.latent_dim(), hidden}, TensorRole::attention, layer);
    add(prefix + "kv_a_layernorm.weight", {config.kv_lora_rank}, TensorRole::norm, layer);
    add(prefix + "kv_b_proj.weight",
        {heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank}, TensorRole::attention,
        layer);
    add(prefix + "o_proj.weight", {hidden, heads * config.v_head_dim}, TensorRole::attention, layer);
  };
  const auto add_block = [&](int64_t layer) {
    const std::string prefix = layer_prefix(layer);
    add(prefix + "input_layernorm.weight", {hidden}, TensorRole::norm, layer);
    add_attention(prefix + "self_attn.", layer);
    add(prefix + "post_attention_layernorm.weight", {hidden}, TensorRole::norm, layer);
    if (!config.is_moe_layer(layer)) {
      add_mlp(prefix + "mlp.", config.intermediate_size, TensorRole::dense_mlp, layer);
      return;
    }
    add(prefix + "mlp.gate.weight", {config.n_routed_experts, hidden}, TensorRole::router, layer);
    if (config.has_correction_bias())
      add(prefix + "mlp.gate.e_score_correction_bias", {config.n_routed_experts}, TensorRole::router_bias,
          layer);
    for (int64_t expert = 0; expert < config.n_routed_experts; ++expert)
      add_mlp(prefix + "mlp.experts." + std::to_string(expert) + ".", config.moe_intermediate_size,
              TensorRole::routed_expert, layer, expert);
    if (config.n_shared_experts > 0)
      add_mlp(prefix + "mlp.shared_experts.", config.moe_intermediate_size * config.n_shared_experts,
              TensorRole::shared_expert, layer);
  };

  add("model.embed_tokens.weight", {config.vocab_size, hidden}, TensorRole::embedding);
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) add_block(layer);
  add("model.norm.weight", {hidden}, TensorRole::norm);
  add("lm_head.weight", {config.vocab_size, hidden}, TensorRole::head);
  for (int64_t layer = config.num_hidden_layers; layer < config.num_layers_with_mtp(); ++layer) {
    const std::string prefix = layer_prefix(layer);
    add(prefix + "embed_tokens.weight", {config.vocab_size, hidden}, TensorRole::mtp_embedding, layer);
    add(prefix + "enorm.weight", {hidden}, TensorRole::norm, layer);
    add(prefix + "hnorm.weight", {hidden}, TensorRole::norm, layer);
    add(prefix + "eh_proj.weight", {hidden, 2 * hidden}, TensorRole::mtp_projection, layer);
    add_block(layer);
    add(prefix + "shared_head.norm.weight", {hidden}, TensorRole::norm, layer);
    add(prefix + "shared_head.head.weight", {config.vocab_size, hidden}, TensorRole::mtp_head, layer);
  }
}

void TensorTable::add(std::string name, std::vector<int64_t> shape, TensorRole role, int64_t layer,
                      int64_t expert) {
  index_.emplace(name, tensors_.size());
  tensors_.push_back({std::move(name), std::move(shape), role, layer, expert});
}

const TensorSpec* TensorTable::find(const std::string& name) const {
  const auto entry = index_.find(name);
  return entry == index_.end() ? nullptr : &tensors_[entry->second];
}

const TensorSpec& TensorTable::at(const std::string& name) const {
  const TensorSpec* spec = find(name);
  if (!spec) throw std::logic_error("internal error: the config implies no tensor named " + name);
  return *spec;
}

std::string stored_dtype(const TensorSpec& spec, const ModelConfig& config) {
  if (spec.role == TensorRole::router_bias) return "float32";
  return is_fp8_matrix(spec, config) ? "float8_e4m3fn" : config.dtype;
}

std::optional<std::vector<int64_t>> scale_shape(const TensorSpec& spec, const ModelConfig& config) {
  if (!is_fp8_matrix(spec, config)) return std::nullopt;
  const std::vector<int64_t>& block = config.quantization->weight_block_size;
  return std::vector<int64_t>{(spec.shape[0] + block[0] - 1) / block[0],
                              (spec.shape[1] + block[1] - 1) / block[1]};
}

const IntWeights* int_weights(const TensorSpec& spec, const ModelConfig& config) {
  if (!config.quantization || config.quantization->groups.empty()) return nullptr;
  switch (spec.role) {
    case TensorRole::embedding:
    case TensorRole::mtp_embedding:
    case TensorRole::norm:
    case TensorRole::router:
    case TensorRole::router_bias:
      return nullptr;
    default:
      return int_weights(*config.quantization, module_of(spec.name), true);
  }
}

std::vector<StoredPart> stored_parts(const TensorSpec& spec, const ModelConfig& config) {
  std::vector<StoredPart> parts;
  if (const IntWeights* ints = int_weights(spec, config)) {
    const int64_t rows = spec.shape[0], columns = spec.shape[1];
    const std::string module = module_of(spec.name) + ".";
    if (ints->is_packed) {
      const int64_t codes_a_word = 32 / ints->bits;
      parts.push_back(
          {module + "weight_packed", "int32", {rows, (columns + codes_a_word - 1) / codes_a_word}});
      parts.push_back({module + "weight_shape", "int64", {2}});
    } else {
      parts.push_back({spec.name, "int8", spec.shape});
    }
    const int64_t group = ints->group_size > 0 ? ints->group_size : columns;
    parts.push_back({module + "weight_scale", config.dtype, {rows, (columns + group - 1) / group}});
  } else {
    parts.push_back({spec.name, stored_dtype(spec, config), spec.shape});
    if (const auto shape = scale_shape(spec, config))
      parts.push_back({spec.name + "_scale_inv", "float32", *shape});
  }
  return parts;
}

ParameterCounts count_parameters(const ModelConfig& config) {
  ParameterCounts counts;
  const TensorTable table(config);
  for (const TensorSpec& spec : table.tensors()) {
    const int64_t numel = spec.numel();
    counts.stored += numel;
    if (spec.role == TensorRole::mtp_embedding || spec.role == TensorRole::mtp_head) continue;
    if (spec.layer >= config.num_hidden_layers) {
      counts.mtp += numel;
      continue;
    }
    counts.trunk += numel;
    const bool is_idle = spec.role == TensorRole::routed_expert && spec.expert >= config.num_experts_per_tok;
    if (!is_idle) counts.activated += numel;
  }
  return counts;
}

}  // namespace fathom::config

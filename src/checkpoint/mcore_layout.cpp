// The layout of MindFormers' successor stack (mcore): Megatron's names, rows of RoPE as in HF files.
#include <fmt/format.h>

#include "checkpoint/layout_builder.h"

namespace fathom::checkpoint {
namespace {

using config::layer_prefix;

class Mcore : public LayoutBuilder {
 public:
  Mcore(const config::ModelConfig& of, const LayoutOptions& with)
      : LayoutBuilder(of, with),
        is_dev_(with.mcore_version == McoreVersion::dev),
        query_rows_(split_heads(of.num_attention_heads, counting(of.qk_nope_head_dim),
                                counting(of.qk_rope_head_dim))),
        key_value_rows_(
            split_heads(of.num_attention_heads, counting(of.qk_nope_head_dim), counting(of.v_head_dim))) {
    if (!with.has_interleaved_fc1) return;
    dense_rows_ = interleaved_halves(2 * of.intermediate_size);
    shared_rows_ = interleaved_halves(2 * of.moe_intermediate_size * of.n_shared_experts);
  }

  std::vector<LayoutRule> build() {
    set_file(numbered_file(0));
    add({"model.embed_tokens.weight"}, {"embedding.word_embeddings.weight"});
    set_file(numbered_file(model.num_layers_with_mtp() - 1));
    add({"model.norm.weight"}, {"decoder.final_layernorm.weight"});
    add({"lm_head.weight"}, {"output_layer.weight"});
    for (int64_t layer = 0; layer < model.num_layers_with_mtp(); ++layer) {
      hf_ = layer_prefix(layer);
      set_file(numbered_file(layer));
      prefix_ = fmt::format("decoder.layers.{}.", layer);
      if (layer >= model.num_hidden_layers) {
        prefix_ = fmt::format("mtp.layers.{}.", layer - model.num_hidden_layers);
        for (const char* name : {"enorm", "hnorm", "eh_proj"}) rename(name, name);
        rename("shared_head.norm", "final_layernorm");
        prefix_ += "transformer_layer.";
      }
      rename("input_layernorm", "input_layernorm");
      add_attention();
      rename("post_attention_layernorm", "pre_mlp_layernorm");
      if (model.is_moe_layer(layer))
        add_moe(layer);
      else
        add_mlp("mlp.", dense_rows_);
    }
    return std::move(rules);
  }

 private:
  std::string hf(const std::string& name) const { return hf_ + name + ".weight"; }
  std::string in_layer(const std::string& name) const { return prefix_ + name + ".weight"; }
  LayoutRule& rename(const std::string& name, const std::string& here) {
    return add({hf(name)}, {in_layer(here)});
  }

  void add_mlp(const std::string& name, const RowOrder& rows) {
    add({hf(name + "gate_proj"), hf(name + "up_proj")}, {in_layer(name + "linear_fc1")}).rows = rows;
    rename(name + "down_proj", name + "linear_fc2");
  }

  void add_attention() {
    const std::string query = model.q_lora_rank > 0 ? "self_attn.q_a_proj" : "self_attn.q_proj";
    if (is_dev_) {
      add({hf(query), hf("self_attn.kv_a_proj_with_mqa")}, {in_layer("self_attention.linear_qkv")});
    } else {
      rename(query,
             model.q_lora_rank > 0 ? "self_attention.linear_q_down_proj" : "self_attention.linear_q_proj");
      rename("self_attn.kv_a_proj_with_mqa", "self_attention.linear_kv_down_proj");
    }
    if (model.q_lora_rank > 0) {
      rename("self_attn.q_a_layernorm", "self_attention.q_layernorm");
      if (!options.has_split_mla)
        rename("self_attn.q_b_proj",
               is_dev_ ? "self_attention.linear_qb" : "self_attention.linear_q_up_proj");
      else
        add_split("self_attn.q_b_proj", "linear_qk_nope", "linear_qk_rope", model.qk_rope_head_dim,
                  query_rows_);
    }
    rename("self_attn.kv_a_layernorm",
           is_dev_ ? "self_attention.k_layernorm" : "self_attention.kv_layernorm");
    if (!options.has_split_mla)
      rename("self_attn.kv_b_proj",
             is_dev_ ? "self_attention.linear_kvb" : "self_attention.linear_kv_up_proj");
    else
      add_split("self_attn.kv_b_proj", "linear_kv_nope", "linear_v", model.v_head_dim, key_value_rows_);
    rename("self_attn.o_proj", "self_attention.linear_proj");
  }

  void add_split(const std::string& name, const std::string& first, const std::string& second,
                 int64_t second_dim, const RowOrder& rows) {
    const int64_t heads = model.num_attention_heads;
    add({hf(name)}, {in_layer("self_attention." + first), in_layer("self_attention." + second)},
        {heads * model.qk_nope_head_dim, heads * second_dim})
        .rows = rows;
  }

  void add_moe(int64_t layer) {
    const int64_t experts = model.n_routed_experts, hidden = model.hidden_size,
                  inner = model.moe_intermediate_size;
    rename("mlp.gate", "mlp.router");
    if (model.has_correction_bias())
      add({hf_ + "mlp.gate.e_score_correction_bias"}, {prefix_ + "mlp.router.expert_bias"});
    if (model.n_shared_experts > 0) add_mlp("mlp.shared_experts.", shared_rows_);
    if (options.has_local_experts) {
      for (int64_t expert = 0; expert < experts; ++expert) {
        const std::string name = fmt::format("mlp.experts.{}.", expert),
                          here = fmt::format("mlp.experts.local_experts.{}.", expert);
        add({hf(name + "gate_proj"), hf(name + "up_proj")}, {in_layer(here + "linear_fc1")});
        rename(name + "down_proj", here + "linear_fc2");
      }
      return;
    }
    // The same bytes under either shape: every expert's [hidden, gate and up].
    add_experts(layer, {"gate_proj", "up_proj"},
                {prefix_ + "mlp.experts.weight1", is_dev_ ? std::vector{hidden, experts * 2 * inner}
                                                          : std::vector{experts * hidden, 2 * inner}},
                true);
    add_experts(layer, {"down_proj"}, {prefix_ + "mlp.experts.weight2", {experts * inner, hidden}}, true);
  }

  bool is_dev_;
  RowOrder query_rows_, key_value_rows_, dense_rows_, shared_rows_;
  std::string hf_, prefix_;
};

}  // namespace

std::vector<LayoutRule> mcore_rules(const config::ModelConfig& model, const LayoutOptions& options) {
  return Mcore(model, options).build();
}

}  // namespace fathom::checkpoint

// MindFormers' own ("legacy") layouts: names and arrangements as its training and its inference read them.
#include <fmt/format.h>

#include "base/error.h"
#include "checkpoint/layout_builder.h"

namespace fathom::checkpoint {
namespace {

using config::layer_prefix;

class Mindformers : public LayoutBuilder {
 public:
  Mindformers(const config::ModelConfig& of, const LayoutOptions& with)
      : LayoutBuilder(of, with),
        is_infer_(with.layout == Layout::mindformers_infer),
        is_gmm_(with.layout == Layout::mindformers_train_gmm),
        rope_rows_(of.rope_interleave ? evens_then_odds(of.qk_rope_head_dim) : counting(of.qk_rope_head_dim)),
        query_rows_(is_infer_
                        ? reordered_tails(0, of.num_attention_heads, of.qk_head_dim(), rope_rows_)
                        : split_heads(of.num_attention_heads, counting(of.qk_nope_head_dim), rope_rows_)),
        latent_rows_(reordered_tails(0, 1, of.latent_dim(), rope_rows_)),
        joined_rows_(reordered_tails(of.q_lora_rank, 1, of.latent_dim(), rope_rows_)),
        key_value_rows_(
            split_heads(of.num_attention_heads, counting(of.qk_nope_head_dim), counting(of.v_head_dim))),
        swapped_(swapped_pairs(2 * of.hidden_size)) {
    if (of.q_lora_rank == 0 && !is_infer_)
      throw CheckpointError(
          "{} has no place for a model without query compression (q_lora_rank null): MindFormers trains with "
          "q2l_proj "
          "and l2q_* only; mindformers-infer and mcore hold it",
          layout_name(with.layout));
  }

  std::vector<LayoutRule> build() {
    set_file(is_infer_ ? "model.safetensors" : numbered_file(0));
    add({"model.embed_tokens.weight"}, {"model.tok_embeddings.embedding_weight"});
    set_file(is_infer_ ? "model.safetensors" : numbered_file(model.num_layers_with_mtp() - 1));
    add({"model.norm.weight"}, {"model.norm_out.weight"});
    add({"lm_head.weight"}, {"lm_head.weight"});
    for (int64_t layer = 0; layer < model.num_layers_with_mtp(); ++layer) {
      prefix_ = layer_prefix(layer);
      set_file(is_infer_ ? fmt::format("model_layer_{}.safetensors", layer) : numbered_file(layer));
      if (layer >= model.num_hidden_layers) add_mtp(layer);
      rename("input_layernorm", "attention_norm");
      add_attention();
      rename("post_attention_layernorm", "ffn_norm");
      if (model.is_moe_layer(layer))
        add_moe(layer);
      else
        add_mlp("mlp.", "feed_forward.");
    }
    return std::move(rules);
  }

 private:
  std::string in_layer(const std::string& name) const { return prefix_ + name + ".weight"; }
  LayoutRule& rename(const std::string& hf, const std::string& name) {
    return add({in_layer(hf)}, {in_layer(name)});
  }

  void add_mlp(const std::string& hf, const std::string& name) {
    if (options.has_fused_ffn) {
      add({in_layer(hf + "gate_proj"), in_layer(hf + "up_proj")}, {in_layer(name + "w_gate_hidden")});
    } else {
      rename(hf + "gate_proj", name + "w1");
      rename(hf + "up_proj", name + "w3");
    }
    rename(hf + "down_proj", name + "w2");
  }

  void add_attention() {
    const std::string latent = in_layer("self_attn.kv_a_proj_with_mqa");
    const int64_t heads = model.num_attention_heads, nope = heads * model.qk_nope_head_dim;
    const bool is_joined = options.has_fused_qkv && model.q_lora_rank > 0;
    if (model.q_lora_rank == 0) {
      rename("self_attn.q_proj", "attention.q_proj").rows = query_rows_;
    } else {
      if (!is_joined) rename("self_attn.q_a_proj", "attention.q2l_proj");
      rename("self_attn.q_a_layernorm", "attention.lq_norm");
      if (is_infer_)
        rename("self_attn.q_b_proj", "attention.l2q_proj").rows = query_rows_;
      else
        add({in_layer("self_attn.q_b_proj")},
            {in_layer("attention.l2q_nope_proj"), in_layer("attention.l2q_pe_proj")},
            {nope, heads * model.qk_rope_head_dim})
            .rows = query_rows_;
    }
    if (is_joined)
      add({in_layer("self_attn.q_a_proj"), latent}, {in_layer("attention.qkv2l")}).rows = joined_rows_;
    else if (is_infer_)
      rename("self_attn.kv_a_proj_with_mqa", "attention.kv2l").rows = latent_rows_;
    else
      add({latent}, {in_layer("attention.kv2l_latent_kv"), in_layer("attention.kv2l_k_pe")},
          {model.kv_lora_rank, model.qk_rope_head_dim})
          .rows = latent_rows_;
    rename("self_attn.kv_a_layernorm", "attention.lkv_norm");
    add({in_layer("self_attn.kv_b_proj")},
        {in_layer("attention.lkv2kv_k_nope"), in_layer("attention.lkv2kv_v")},
        {nope, heads * model.v_head_dim})
        .rows = key_value_rows_;
    rename("self_attn.o_proj", "attention.wo");
  }

  void add_moe(int64_t layer) {
    const std::string routed = prefix_ + "feed_forward.routed_experts.";
    add({in_layer("mlp.gate")}, {routed + (is_gmm_ ? "router_dense.weight" : "router.dense.weight")});
    if (model.has_correction_bias())
      add({prefix_ + "mlp.gate.e_score_correction_bias"},
          {routed + (is_gmm_     ? "topk_bias"
                     : is_infer_ ? "router.e_score_correction_bias"
                                 : "router.router.topk_bias")});
    if (model.n_shared_experts > 0) add_mlp("mlp.shared_experts.", "feed_forward.shared_experts.");

    const int64_t experts = model.n_routed_experts, hidden = model.hidden_size,
                  inner = model.moe_intermediate_size;
    const bool is_transposed = is_infer_ || is_gmm_ || options.has_transposed_experts;
    const std::string outer_file = fmt::format("model_layer_{}.safetensors", layer);
    const auto add_stack = [&](const std::vector<std::string>& projections, const std::string& name,
                               int64_t out, int64_t in) {
      if (is_infer_) set_file(fmt::format("model_layer_{}_routed_experts_{}.safetensors", layer, name));
      add_experts(layer, projections,
                  {routed + "ffn." + name + (is_gmm_ ? "" : ".weight"),
                   is_transposed ? std::vector{experts, in, out} : std::vector{experts, out, in}},
                  is_transposed);
      if (is_infer_) set_file(outer_file);
    };
    if (is_gmm_) {
      add_stack({"gate_proj", "up_proj"}, "w1", 2 * inner, hidden);
    } else if (options.has_fused_ffn) {
      add_stack({"gate_proj", "up_proj"}, "w_gate_hidden", 2 * inner, hidden);
    } else {
      add_stack({"gate_proj"}, "w1", inner, hidden);
      add_stack({"up_proj"}, "w3", inner, hidden);
    }
    add_stack({"down_proj"}, "w2", hidden, inner);
  }

  // Embedding and head of the layer are the trunk's in training; inference keeps the copies.
  void add_mtp(int64_t layer) {
    if (is_infer_ && !options.has_training_mtp) {
      rename("embed_tokens", "tok_embeddings");
      for (const char* name : {"enorm", "hnorm", "eh_proj", "shared_head.norm", "shared_head.head"})
        rename(name, name);
      return;
    }
    const int64_t depth = layer - model.num_hidden_layers;
    const std::string fuser = fmt::format("model.mtp_hidden_fusers.{}.", depth);
    add({in_layer("enorm")}, {fuser + "norm_emb.weight"});
    add({in_layer("hnorm")}, {fuser + "norm.weight"});
    LayoutRule& projection = add({in_layer("eh_proj")}, {fuser + "dense.weight"});
    if (options.swaps_mtp_halves) {
      projection.width =
          model.hidden_size;  // a row of it is two: the embedding's half and the hidden state's
      projection.rows = swapped_;
    }
    add({in_layer("shared_head.norm")}, {fmt::format("model.mtp_norms.{}.weight", depth)});
  }

  bool is_infer_, is_gmm_;
  std::vector<int64_t> rope_rows_;
  RowOrder query_rows_, latent_rows_, joined_rows_, key_value_rows_, swapped_;
  std::string prefix_;
};

}  // namespace

std::vector<LayoutRule> mindformers_rules(const config::ModelConfig& model, const LayoutOptions& options) {
  return Mindformers(model, options).build();
}

}  // namespace fathom::checkpoint

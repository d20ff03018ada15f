// model.model_config without its experts: shapes, RoPE, token ids, precision.
#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "config/mindformers_translation.h"

namespace fathom::config {
namespace {

const std::string kModel = "model.model_config.";

struct Shape {
  std::initializer_list<const char*> names;  // MindFormers' older name first
  const char* target;                        // HF's
  Json older, newer;                         // the default of each dialect
};

// Token ids of DeepSeek-V2's vocabulary that MindFormers' V3 YAMLs still carry: ordinary tokens of V3's.
constexpr int64_t kV3Vocabulary = 129280, kV2Bos = 100000, kV2Eos = 100001, kV3Bos = 0, kV3Eos = 1;

void translate_shapes(Translation& t) {
  const Shape shapes[] = {
      {{"model.model_config.vocab_size"}, "model.vocab_size", 129280, 129280},
      {{"model.model_config.hidden_size"}, "model.hidden_size", 4096, 7168},
      {{"model.model_config.intermediate_size", "model.model_config.ffn_hidden_size"},
       "model.intermediate_size",
       18432,
       18432},
      {{"model.model_config.num_layers", "model.model_config.num_hidden_layers"},
       "model.num_hidden_layers",
       32,
       61},
      {{"model.model_config.mtp_depth", "model.model_config.num_nextn_predict_layers"},
       "model.num_nextn_predict_layers",
       0,
       1},
      {{"model.model_config.num_heads", "model.model_config.num_attention_heads"},
       "model.num_attention_heads",
       32,
       128},
      {{"model.model_config.q_lora_rank"}, "model.q_lora_rank", 1536, 1536},
      {{"model.model_config.kv_lora_rank"}, "model.kv_lora_rank", 512, 512},
      {{"model.model_config.qk_nope_head_dim", "model.model_config.qk_head_dim"},
       "model.qk_nope_head_dim",
       128,
       128},
      {{"model.model_config.qk_rope_head_dim", "model.model_config.qk_pos_emb_head_dim"},
       "model.qk_rope_head_dim",
       64,
       64},
      {{"model.model_config.v_head_dim"}, "model.v_head_dim", 128, 128},
      {{"model.model_config.max_position_embeddings"}, "model.max_position_embeddings", 32768, 4096},
  };
  for (const Shape& shape : shapes) {
    const std::string path = t.either(shape.names);
    const int64_t value = t.integer(path, (t.is_legacy ? shape.older : shape.newer).get<int64_t>());
    if (std::string(shape.target) == "model.q_lora_rank" && value == 0)
      t.carried(path, t.put(shape.target, nullptr), "no compression of the query");
    else if (t.use == RecipeUse::inference && std::string(shape.target) == "model.num_nextn_predict_layers" &&
             !t.find(path))
      t.carried(path, t.put(shape.target, int64_t{0}));
    else
      t.carried(path, t.put(shape.target, value));
  }
  const std::string kv =
      t.either({"model.model_config.n_kv_heads", "model.model_config.num_key_value_heads"});
  const int64_t heads = t.model["num_attention_heads"].get<int64_t>();
  if (t.find(kv)) {
    if (t.integer(kv, heads) == heads)
      t.by_default(kv, "multi-head latent attention has as many as heads");
    else
      t.meaningless(kv, fmt::format("latent attention has as many as heads ({}), there too", heads));
  }
  const std::string eps =
      t.either({"model.model_config.rms_norm_eps", "model.model_config.layernorm_epsilon"});
  t.carried(eps, t.put("model.rms_norm_eps", t.number(eps, 1e-6)));
  const std::string spread =
      t.either({"model.model_config.init_method_std", "model.model_config.initializer_range"});
  t.carried(spread, t.put("model.initializer_range", t.number(spread, t.is_legacy ? 0.006 : 0.02)),
            "the values themselves come from Fathom's own draws");
}

void translate_rope(Translation& t) {
  const std::string base = t.either(
      {"model.model_config.theta", "model.model_config.rope_theta", "model.model_config.rotary_base"});
  t.carried(base, t.put("model.rope_theta", t.number(base, 10000)));

  const std::string method = kModel + "extend_method", factors = kModel + "scaling_factor",
                    hf = kModel + "rope_scaling";
  t.know(factors);
  t.know(hf);
  const std::string kind = t.has(method) ? t.text(method, "None") : t.is_legacy ? "YARN" : "None";
  const Tree* node = t.find(factors);
  if (!node) node = t.find(hf);
  if (kind == "YARN" || kind == "yarn" || (!t.find(method) && node && node->kind == Tree::Kind::mapping)) {
    const std::string given = t.find(factors) ? factors : hf;
    if (!node || node->kind != Tree::Kind::mapping) {
      t.unsupported(
          method,
          fmt::format("is YARN (MindFormers' default), but {} has no numbers for it: set extend_method "
                      "to \"None\" for plain RoPE, or give the numbers",
                      factors),
          KeyEffect::blocks);
      return;
    }
    Json yarn = {{"type", "yarn"}};
    for (const char* key : {"factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
                            "original_max_position_embeddings"}) {
      const std::string path = given + "." + key;
      t.know(path);
      const Tree* value = t.find(path);
      if (!value) continue;
      const double number = value->as_number();
      if (std::abs(number) < 1e15 && number == std::floor(number) && std::string(key) != "mscale" &&
          std::string(key) != "mscale_all_dim")
        yarn[key] = static_cast<int64_t>(number);
      else
        yarn[key] = number;
      t.mapped(path, fmt::format("model.rope_scaling.{}: {}", key, yarn[key].dump()));
    }
    t.rest_is_meaningless(given + ".type", "YaRN");
    t.rest_is_meaningless(given + ".rope_type", "YaRN");
    t.put("model.rope_scaling", yarn);
    t.carried(method, "model.rope_scaling.type: \"yarn\"");
    return;
  }
  t.put("model.rope_scaling", nullptr);
  if (kind != "None" && kind != "none" && kind != "rope") {
    t.unsupported(method, "supported: YARN, None", KeyEffect::blocks);
    return;
  }
  t.carried(method, "model.rope_scaling: null",
            t.use == RecipeUse::training
                ? "plain RoPE; DeepSeek's released config.json has YaRN for 128K, MindFormers' "
                  "predict YAML too: their weights serve otherwise there"
                : "");
  if (t.find(factors)) t.rest_is_meaningless(factors, "extend_method is None");
}

void translate_token_ids(Translation& t) {
  const int64_t vocabulary = t.model["vocab_size"].get<int64_t>();
  const std::string bos = kModel + "bos_token_id", eos = kModel + "eos_token_id",
                    pad = kModel + "pad_token_id";
  const auto put_id = [&](const std::string& path, const char* target, int64_t older, int64_t newer,
                          int64_t v2, int64_t v3) {
    const int64_t id = t.integer(path, t.is_legacy ? older : newer);
    if (vocabulary == kV3Vocabulary && id == v2)
      t.mapped(path, t.put(target, v3),
               fmt::format("{} is DeepSeek-V2's; in V3's vocabulary it is an ordinary token", v2),
               KeyEffect::differs);
    else
      t.carried(path, t.put(target, id));
  };
  put_id(bos, "model.bos_token_id", 1, 0, kV2Bos, kV3Bos);
  put_id(eos, "model.eos_token_id", 2, 1, kV2Eos, kV3Eos);
  t.know(pad);
  if (t.find(pad)) {
    if (t.use == RecipeUse::inference)
      t.mapped(pad, t.put("model.pad_token_id", t.integer(pad, -1)));
    else
      t.meaningless(
          pad,
          "MindFormers takes every input of this id out of the loss; here padding is masked by its position, "
          "and every token of a document counts",
          KeyEffect::differs);
  }
  const std::string ignored = kModel + "ignore_token_id";
  if (t.integer(ignored, -100) == -100)
    t.rest_is_meaningless(ignored, "labels are masked by a mask, and by -100");
  else
    t.unsupported(ignored, "labels are ignored by a mask and by -100 only", KeyEffect::blocks);
}

bool is_bf16(const std::string& type) { return type == "bfloat16" || type == "bf16"; }
bool is_fp32(const std::string& type) { return type == "float32" || type == "fp32"; }

void translate_precision(Translation& t) {
  const std::string compute = kModel + "compute_dtype",
                    stored =
                        t.either({"model.model_config.param_init_type", "model.model_config.params_dtype",
                                  "model.model_config.param_init_dtype"});
  const std::string computed = t.text(compute, "bfloat16"),
                    kept = t.text(stored, t.is_legacy ? "bfloat16" : "float32");
  t.put("model.torch_dtype", is_fp32(computed) ? "float32" : "bfloat16");
  if (t.use == RecipeUse::inference) {
    t.rest_is_meaningless(compute, "weights are used in the format of their files, sums are float32");
    t.rest_is_meaningless(stored, "weights are used in the format of their files");
  } else if (!is_bf16(computed) && !is_fp32(computed)) {
    t.unsupported(compute, "is trained in bfloat16 or float32 here", KeyEffect::blocks);
  } else {
    const std::string precision = is_fp32(computed) ? "fp32" : is_fp32(kept) ? "bf16" : "bf16_pure";
    t.carried(compute, t.put("train.precision", precision));
    t.carried(stored, fmt::format("train.precision: \"{}\"", precision),
              is_fp32(kept) ? "float32 masters" : "no float32 masters");
  }
  struct Part {
    std::initializer_list<const char*> names;
    const char* note;
  };
  const Part parts[] = {
      {{"model.model_config.layernorm_compute_type", "model.model_config.layernorm_compute_dtype"},
       "norms sum in float32"},
      {{"model.model_config.softmax_compute_type", "model.model_config.softmax_compute_dtype"},
       "softmax is float32"},
      {{"model.model_config.rotary_dtype"}, "RoPE's angles are float32"},
      {{"model.model_config.router_dense_type", "moe_config.router_dense_type"}, "the router is float32"},
  };
  for (const Part& part : parts) {
    const std::string path = t.either(part.names);
    if (!t.find(path)) continue;
    if (is_fp32(t.text(path, "")))
      t.by_default(path, part.note);
    else
      t.meaningless(path, std::string(part.note) + " here whatever this says",
                    t.use == RecipeUse::training ? KeyEffect::differs : KeyEffect::none);
  }
}

}  // namespace

void translate_model(Translation& t) {
  t.put("model.architectures", Json::array({"DeepseekV3ForCausalLM"}));  // translate_router may say V2
  t.put("model.model_type", "deepseek_v3");
  translate_shapes(t);
  translate_rope(t);
  translate_token_ids(t);
  translate_precision(t);
}

}  // namespace fathom::config

// The experts: their shapes, how tokens choose them, how their load is balanced (moe_config; for newer YAMLs
// model.model_config).
#include <fmt/format.h>

#include <algorithm>

#include "config/mindformers_translation.h"

namespace fathom::config {
namespace {

const std::string kMoe = "moe_config.";
const std::string kModel = "model.model_config.";

void translate_experts(Translation& t) {
  const std::string count =
      t.either({"moe_config.expert_num", "model.model_config.n_routed_experts",
                "model.model_config.num_experts", "model.model_config.num_moe_experts"});
  const std::string chosen =
      t.either({"moe_config.num_experts_chosen", "model.model_config.num_experts_per_tok",
                "model.model_config.moe_router_topk"});
  const std::string shared =
      t.either({"moe_config.shared_expert_num", "model.model_config.n_shared_experts"});
  const std::string width =
      t.either({"moe_config.moe_intermediate_size", "model.model_config.moe_intermediate_size"});
  const std::string dense =
      t.either({"moe_config.first_k_dense_replace", "model.model_config.first_k_dense_replace"});
  const std::string scale =
      t.either({"moe_config.routed_scaling_factor", "model.model_config.routed_scaling_factor",
                "model.model_config.moe_router_topk_scaling_factor"});
  const int64_t experts = t.integer(count, t.is_legacy ? 1 : 256);
  t.carried(count, t.put("model.n_routed_experts", experts > 1 ? Json(experts) : Json(nullptr)));
  t.carried(chosen, t.put("model.num_experts_per_tok", t.integer(chosen, t.is_legacy ? 1 : 8)));
  t.carried(shared, t.put("model.n_shared_experts", t.integer(shared, t.is_legacy ? 0 : 1)));
  t.carried(width, t.put("model.moe_intermediate_size", t.integer(width, t.is_legacy ? 1407 : 2048)));
  t.carried(scale, t.put("model.routed_scaling_factor", t.number(scale, t.is_legacy ? 1.0 : 2.5)));
  // MindFormers' default is True, which compares as 1: the first layer is dense.
  const Tree* node = t.find(dense);
  const bool is_flag =
      node && node->kind == Tree::Kind::scalar &&
      (node->text == "True" || node->text == "true" || node->text == "False" || node->text == "false");
  const int64_t first = is_flag ? (node->as_boolean() ? 1 : 0) : t.integer(dense, t.is_legacy ? 1 : 3);
  t.carried(dense, t.put("model.first_k_dense_replace", first));
  t.put("model.moe_layer_freq", int64_t{1});
}

bool is_v2_model(Translation& t) { return t.text(kModel + "type", "DeepseekV3Config") == "DeepseekV2Config"; }

// True: sigmoid, DeepSeek-V3's; false: softmax.
bool reads_sigmoid(Translation& t) {
  const std::string gate =
      t.either({"moe_config.use_gating_sigmoid", "model.model_config.use_gating_sigmoid"});
  const std::string score =
      t.either({"model.model_config.scoring_func", "model.model_config.moe_router_score_function"});
  if (t.find(score)) return t.text(score, "") == "sigmoid";
  if (t.find(gate)) return t.boolean(gate, false);
  return !t.is_legacy || (t.use == RecipeUse::inference && !is_v2_model(t));
}

// The router's scores and what of them is normalised. Returns whether it is DeepSeek-V3's router.
bool translate_scores(Translation& t) {
  const std::string gate =
      t.either({"moe_config.use_gating_sigmoid", "model.model_config.use_gating_sigmoid"});
  const std::string score =
      t.either({"model.model_config.scoring_func", "model.model_config.moe_router_score_function"});
  const std::string norm = t.either({"moe_config.norm_topk_prob", "model.model_config.norm_topk_prob"});
  const std::string bias =
      t.either({"moe_config.balance_via_topk_bias", "model.model_config.balance_via_topk_bias",
                "model.model_config.moe_router_enable_expert_bias"});
  const std::string given = t.find(score) ? score : gate;
  const bool is_sigmoid = reads_sigmoid(t), has_bias = t.boolean(bias, false);
  // MindFormers normalises the weights of two and more chosen experts only.
  const bool is_normalised = t.boolean(norm, true) && t.model["num_experts_per_tok"].get<int64_t>() > 1;
  if (is_sigmoid) {
    t.carried(given, t.put("model.scoring_func", "sigmoid"));
    t.carried(norm, t.put("model.norm_topk_prob", is_normalised));
    t.put("model.topk_method", "noaux_tc");
    return true;
  }
  t.put("model.architectures", Json::array({"DeepseekV2ForCausalLM"}));
  t.put("model.model_type", "deepseek_v2");
  t.put("model.topk_method", "greedy");
  t.carried(given, t.put("model.scoring_func", "softmax"), "DeepSeek-V2's router");
  if (is_normalised)
    t.unsupported(norm,
                  "softmax scores are not normalised again over the chosen experts (DeepSeek-V2's router)",
                  KeyEffect::blocks);
  else
    t.by_default(norm, "DeepSeek-V2's router");
  if (has_bias)
    t.unsupported(bias, "a selection bias goes with use_gating_sigmoid: True only (DeepSeek-V3's router)",
                  KeyEffect::blocks);
  return false;
}

void translate_groups(Translation& t, bool is_v3) {
  const std::string groups = t.either(
      {"moe_config.n_group", "model.model_config.n_group", "model.model_config.moe_router_num_groups"});
  const std::string kept = t.either(
      {"moe_config.topk_group", "model.model_config.topk_group", "model.model_config.moe_router_group_topk"});
  const std::string method = t.either({"moe_config.topk_method", "model.model_config.topk_method"});
  const std::string kind = t.text(method, t.is_legacy ? "greedy" : "noaux_tc");
  int64_t group_count = std::max<int64_t>(t.integer(groups, t.is_legacy ? 1 : 8), 1);
  int64_t kept_count = std::max<int64_t>(t.integer(kept, t.is_legacy ? 1 : 4), 1);
  const bool is_training_of_legacy = t.is_legacy && t.use == RecipeUse::training;
  std::string why;
  if (is_training_of_legacy && t.is_grouped_matmul)
    why = "with use_gmm MindFormers chooses among all experts, whatever this says";
  else if (is_training_of_legacy && kind == "greedy")
    why = "topk_method is greedy: MindFormers chooses among all experts, whatever this says";
  if (!why.empty()) {
    if (t.find(groups)) t.meaningless(groups, why);
    if (t.find(kept)) t.meaningless(kept, why);
    group_count = kept_count = 1;
  }
  const bool is_plain_671b =
      is_training_of_legacy && is_v3 && group_count == 1 && t.model["n_routed_experts"] == 256;
  t.carried(groups, t.put("model.n_group", group_count),
            is_plain_671b
                ? "among all experts, as MindFormers trains; DeepSeek's own models choose in 4 of 8 groups: "
                  "model.n_group: 8 and model.topk_group: 4 to continue with their weights"
                : "");
  t.carried(kept, t.put("model.topk_group", kept_count));
  if (!t.find(method)) return;
  if (is_v3 && kind == "group_limited_greedy" && group_count > 1)
    t.unsupported(method, "a group's score is the sum of its two best here, not its best (noaux_tc)",
                  KeyEffect::blocks);
  else if (is_v3)
    t.by_default(method, group_count > 1 ? "a group's score is the sum of its two best" : "no groups");
  else if (kind == "group_limited_greedy" || kind == "greedy")
    t.mapped(method, t.put("model.topk_method", why.empty() ? kind : "greedy"));
  else
    t.unsupported(method, "softmax scores go with greedy and group_limited_greedy", KeyEffect::blocks);
}

// The callback that moves the selection bias; -1: there is none.
int64_t balance_callback(Translation& t) {
  const Tree* callbacks = t.find("callbacks");
  if (!callbacks || callbacks->kind != Tree::Kind::sequence) return -1;
  for (size_t i = 0; i < callbacks->items.size(); ++i)
    if (t.text(fmt::format("callbacks.{}.type", i), "") == "TopkBiasBalanceCallback")
      return static_cast<int64_t>(i);
  return -1;
}

void translate_bias(Translation& t, bool is_v3) {
  const std::string bias =
      t.either({"moe_config.balance_via_topk_bias", "model.model_config.balance_via_topk_bias",
                "model.model_config.moe_router_enable_expert_bias"});
  const std::string rate =
      t.either({"moe_config.topk_bias_update_rate", "model.model_config.topk_bias_update_rate",
                "model.model_config.moe_router_bias_update_rate"});
  const int64_t index = balance_callback(t);
  const std::string callback = fmt::format("callbacks.{}.", index);
  const bool is_on = t.boolean(bias, false) && is_v3;
  double step = is_on ? t.number(rate, t.is_legacy ? 0.0 : 0.001) : 0;
  if (is_on && index < 0) {
    t.unsupported(
        bias,
        "needs the callback TopkBiasBalanceCallback, which the YAML does not have: MindFormers never "
        "moves the bias, and neither does this recipe (train.balance.bias_update_rate: 0)",
        KeyEffect::differs);
    step = 0;
  }
  if (index >= 0) {
    const std::string own = callback + "topk_bias_update_rate", own_bias = callback + "balance_via_topk_bias";
    if (t.is_legacy && is_on) {
      // The callback's own copies are what takes effect.
      const double effective = t.boolean(own_bias, false) ? t.number(own, 0.0) : 0;
      if (effective != step)
        t.mapped(own, t.put("train.balance.bias_update_rate", effective),
                 fmt::format("moe_config says {}, but the callback's value is the one that MindFormers uses",
                             step),
                 KeyEffect::differs);
      step = effective;
    }
    t.by_default(callback + "type", "after each optimizer step, over the whole batch");
    const std::string micro = callback + "micro_batch_num";
    const int64_t counted = t.integer(micro, 1),
                  real = t.pipeline > 1 ? t.integer("parallel_config.micro_batch_num", 1) : 1;
    if (t.find(micro))
      t.meaningless(
          micro,
          counted == real
              ? "the load is counted as it is"
              : fmt::format("the load is counted as it is; MindFormers would compare {} micro-batches' "
                            "load with the mean of {}, and move all biases one way",
                            real, counted),
          counted == real ? KeyEffect::none : KeyEffect::differs);
    t.rest_is_meaningless(fmt::format("callbacks.{}", index), "taken from the model and the batch");
  }
  if (!is_v3) {
    if (t.find(bias) && !t.boolean(bias, false))
      t.by_default(bias, "DeepSeek-V2's router has no selection bias");
    t.rest_is_meaningless(rate, "no selection bias");
    return;
  }
  const std::string written = t.put("train.balance.bias_update_rate", step);
  t.carried(bias, written);
  if (t.find(rate)) t.mapped(rate, written);
}

void translate_aux_loss(Translation& t) {
  const std::string types = kMoe + "aux_loss_types", factors = kMoe + "aux_loss_factors",
                    extra = kModel + "return_extra_loss";
  const std::string chunk =
      "MindFormers takes it over the tokens of one device, Fathom over each sequence, as DeepSeek's report";
  const bool is_added = t.boolean(extra, true);
  if (t.find(extra)) t.by_default(extra, is_added ? "the balance loss is added" : "the balance loss is off");
  t.know(types);
  t.know(factors);
  double weight = 0;
  const std::string target = "train.balance.sequence_aux_loss";
  if (!t.is_legacy) {
    const std::string coefficient =
        t.either({"model.model_config.moe_aux_loss_coeff", "model.model_config.router_aux_loss_coef",
                  "moe_config.aux_loss_factor"});
    const std::string type = kModel + "moe_router_load_balancing_type";
    weight = t.number(coefficient, 0.0);
    const std::string kind = t.text(type, "aux_loss");
    if (kind == "none") weight = 0;
    t.carried(coefficient, t.put(target, weight));
    if (!t.find(type)) return;
    if (kind == "seq_aux_loss" || kind == "none" || weight == 0)
      t.mapped(type, fmt::format("{}: {}", target, weight));
    else if (kind == "aux_loss")
      t.mapped(type, fmt::format("{}: {}", target, weight), chunk, KeyEffect::differs);
    else
      t.unsupported(type, "the balance loss is the sequence-wise one here", KeyEffect::blocks);
    return;
  }
  const Tree* list = t.find(types);
  const Tree* values = t.find(factors);
  const size_t pairs = list && values ? std::min(list->items.size(), values->items.size()) : 0;
  std::string refused;
  for (size_t i = 0; i < pairs; ++i) {
    const double factor = values->items[i].as_number();
    if (list->items[i].as_text() == "expert")
      weight = factor;
    else if (factor != 0)
      refused += fmt::format("{}{} ({})", refused.empty() ? "" : ", ", list->items[i].as_text(), factor);
  }
  if (!is_added) weight = 0;
  const std::string written = t.put(target, weight);
  if (!refused.empty() && is_added)
    t.unsupported(types,
                  fmt::format("the balance losses {} do not exist here; of these, `expert` does", refused),
                  KeyEffect::blocks);
  else
    t.carried(types, written, weight != 0 ? chunk : "", weight != 0 ? KeyEffect::differs : KeyEffect::none);
  if (values) t.mapped(factors, written);
}

// The backend without use_gmm drops what exceeds an expert's capacity.
void translate_capacity(Translation& t) {
  const std::string capacity = t.either({"moe_config.capacity_factor", "model.model_config.capacity_factor",
                                         "model.model_config.moe_expert_capacity_factor"});
  if (t.use == RecipeUse::training && t.is_legacy && !t.is_grouped_matmul &&
      t.model["n_routed_experts"].is_number())
    t.unsupported(
        capacity,
        fmt::format(
            "without use_gmm MindFormers drops the tokens beyond {} times an expert's even share; here "
            "no token is ever dropped",
            t.number(capacity, 1.1)),
        KeyEffect::differs);
  t.rest_is_meaningless(capacity, "experts take any number of tokens");
  const std::string policy = kMoe + "routing_policy";
  if (t.text(policy, "TopkRouterV2") == "TopkRouterV2")
    t.rest_is_meaningless(policy, "the model's own router");
  else
    t.unsupported(policy, "only TopkRouterV2 is the router of DeepSeek's models", KeyEffect::blocks);
  const std::string z = kMoe + "z_loss_factor";
  if (t.number(z, 0) == 0)
    t.rest_is_meaningless(z, "off");
  else if (t.is_grouped_matmul)
    t.meaningless(z, "use_gmm has no router z-loss");
  else
    t.unsupported(z, "there is no z-loss of the router here (train.z_loss is that of the output logits)",
                  KeyEffect::blocks);
  const std::string gating = kMoe + "use_shared_expert_gating";
  if (t.boolean(gating, false))
    t.unsupported(gating, "the shared expert has no gate in DeepSeek's models", KeyEffect::blocks);
  else
    t.rest_is_meaningless(gating, "the shared expert has no gate");
}

}  // namespace

void translate_router(Translation& t) {
  translate_experts(t);
  if (t.model["n_routed_experts"].is_null()) {  // dense: nothing to route
    for (const char* key : {"n_group", "topk_group", "num_experts_per_tok"})
      t.put(std::string("model.") + key, int64_t{1});
    t.put("model.topk_method", "noaux_tc");
    t.put("model.scoring_func", "sigmoid");
    if (t.use == RecipeUse::training) t.put("train.balance.bias_update_rate", 0.0);
    t.rest_is_meaningless("moe_config", "the model has no experts");
    return;
  }
  const bool is_v3 = translate_scores(t);
  translate_groups(t, is_v3);
  if (t.use == RecipeUse::training) {
    translate_bias(t, is_v3);
    translate_aux_loss(t);
    const std::string factor =
        t.either({"model.model_config.mtp_loss_factor", "model.model_config.mtp_loss_scaling_factor"});
    t.carried(factor, t.put("train.mtp_loss_weight", t.number(factor, 0.3)),
              "divided by the number of MTP modules, as there");
  }
  translate_capacity(t);
}

}  // namespace fathom::config

// Checkpoints, and the keys that mean nothing here or must stand at one value.
#include <fmt/format.h>

#include "config/mindformers_translation.h"

namespace fathom::config {
namespace {

// A key (or a section of keys) whose value changes nothing here.
struct Idle {
  const char* path;
  const char* note;
};

const Idle kIdle[] = {
    {"trainer", "one trainer for all"},
    {"context", "of MindSpore's runtime"},
    {"kernel_launch_group", "of MindSpore's runtime"},
    {"auto_tune", "of MindSpore's data pipeline"},
    {"filepath_prefix", "of MindSpore's data pipeline"},
    {"autotune_per_step", "of MindSpore's data pipeline"},
    {"remote_save_url", "of a cloud service"},
    {"save_file", "of a cloud service"},
    {"use_legacy", "which names the YAML uses"},
    {"metric", "fathom eval has its own"},
    {"processor", "of prediction; training reads tokens"},
    {"exclude_cann_cpu", "of the device"},
    {"train_precision_sync", "runs are deterministic anyway"},
    {"infer_precision_sync", "runs are deterministic anyway"},
    {"postprocess_use_numpy", "sampling is Fathom's own"},
    {"input_data", "given on the command line"},
    {"predict_batch_size", "requests are batched as they come"},
    {"adapter_id", "of a chat service"},
    {"profile_communication", "of MindSpore's profiler"},
    {"profile_memory", "of MindSpore's profiler"},
    {"profile_start_step", "of MindSpore's profiler"},
    {"profile_stop_step", "of MindSpore's profiler"},
    {"profile_rank_ids", "of MindSpore's profiler"},
    {"profile_pipeline", "of MindSpore's profiler"},
    {"profile_level", "of MindSpore's profiler"},
    {"init_start_profile", "of MindSpore's profiler"},
    {"mstx", "of MindSpore's profiler"},
    {"monitor_config", "metrics.jsonl, expert_load.jsonl and the report have their own figures"},
    {"runner_config.sink_mode", "of MindSpore's data pipeline"},
    {"runner_config.sink_size", "of MindSpore's data pipeline"},
    {"runner_config.num_classes", "of other models"},
    {"parallel.gradients_mean", "gradients are divided by the targets of the whole batch"},
    {"parallel.enable_alltoall", "experts always exchange tokens by all-to-all"},
    {"parallel.full_batch", "each data rank reads its own sequences"},
    {"parallel.dataset_strategy", "each data rank reads its own sequences"},
    {"parallel.search_mode", "of MindSpore's compiler"},
    {"parallel.strategy_ckpt_save_file", "checkpoints need no strategy file"},
    {"parallel.strategy_ckpt_config", "checkpoints need no strategy file"},
    {"parallel.parallel_optimizer_config.parallel_optimizer_threshold", "everything is sharded"},
    {"parallel.parallel_optimizer_config.optimizer_weight_shard_size",
     "states are sharded over all data ranks"},
    {"recompute_config.parallel_optimizer_comm_recompute", "how ranks share the work is Fathom's choice"},
    {"recompute_config.mp_comm_recompute", "how ranks share the work is Fathom's choice"},
    {"recompute_config.recompute_slice_activation", "how ranks share the work is Fathom's choice"},
    {"recompute_config.select_comm_recompute", "how ranks share the work is Fathom's choice"},
    {"recompute_config.select_recompute_exclude", "of MindSpore's operators"},
    {"recompute_config.select_comm_recompute_exclude", "of MindSpore's operators"},
    {"train_dataset.input_columns", "by data.kind"},
    {"train_dataset.construct_args_key", "by data.kind"},
    {"train_dataset.num_parallel_workers", "the data are mapped, not copied"},
    {"train_dataset.python_multiprocessing", "the data are mapped, not copied"},
    {"train_dataset.prefetch_size", "the data are mapped, not copied"},
    {"train_dataset.numa_enable", "the data are mapped, not copied"},
    {"train_dataset.drop_remainder", "every step is a whole batch"},
    {"train_dataset.batch_size", "MindFormers takes runner_config.batch_size"},
    {"train_dataset.seed", "the order of the samples comes from the recipe's seed"},
    {"train_dataset.data_loader.datasets_type", "GPTDataset"},
    {"train_dataset.data_loader.shuffle", "the order of the samples comes from the recipe's seed"},
    {"train_dataset.data_loader.config.num_dataset_builder_threads", "of MindFormers' index builder"},
    {"train_dataset.data_loader.config.path_to_cache", "the index lies in the run's directory"},
    {"train_dataset.data_loader.config.mmap_bin_files", "the data are mapped"},
    {"train_dataset.data_loader.config.s3_cache_path", "the data are mapped"},
    {"train_dataset.data_loader.config.create_attention_mask", "attention is causal; no mask is ever stored"},
    {"train_dataset.data_loader.config.eod_pad_length", "no mask is ever stored"},
    {"train_dataset.data_loader.config.eod", "the dataset's .meta.json, or the model's eos_token_id"},
    {"train_dataset.data_loader.config.pad", "samples are windows without padding"},
    {"train_dataset.data_loader.config.drop_last_partial_validation_sequence", "windows are whole"},
    {"train_dataset.data_loader.config.add_extra_token_to_sequence", "a window and its last label"},
    {"train_dataset_task.type", "by data.kind"},
    {"model.arch", "by model_type"},
    {"model.model_config.type", "by model_type"},
    {"model.model_config.model_type", "by the router"},
    {"model.model_config.architectures", "by the router"},
    {"model.model_config.auto_register", "by model_type"},
    {"model.model_config.auto_map", "by model_type"},
    {"model.model_config.batch_size", "of MindFormers' prediction; training takes runner_config.batch_size"},
    {"model.model_config.seq_length", "positions are as many as they come"},
    {"model.model_config.multiple_of", "intermediate_size is given"},
    {"model.model_config.use_past", "generation always keeps its cache"},
    {"model.model_config.use_cache", "generation always keeps its cache"},
    {"model.model_config.is_dynamic", "shapes are never fixed"},
    {"model.model_config.use_flash_attention", "attention never stores its scores"},
    {"model.model_config.use_fused_swiglu", "one kernel anyway"},
    {"model.model_config.use_fused_rope", "one kernel anyway"},
    {"model.model_config.enable_fa_var_len", "one kernel anyway"},
    {"model.model_config.fine_grain_interleave", "how ranks share the work is Fathom's choice"},
    {"model.model_config.input_sliced_sig", "windows come with their labels"},
    {"model.model_config.qkv_concat", "the checkpoint has HF's layout"},
    {"model.model_config.ffn_concat", "the checkpoint has HF's layout"},
    {"model.model_config.split_mla", "the checkpoint has HF's layout"},
    {"model.model_config.use_interleaved_weight_layout_mlp", "the checkpoint has HF's layout"},
    {"model.model_config.ep_size", "by parallel.expert"},
    {"model.model_config.return_hidden_states", "of MindFormers' prediction"},
    {"model.model_config.enable_micro_batch", "of MindFormers' prediction"},
    {"model.model_config.block_size", "the cache grows as it must"},
    {"model.model_config.num_blocks", "the cache grows as it must"},
    {"model.model_config.moe_token_drop_policy", "no token is ever dropped"},
    {"model.model_config.moe_grouped_gemm", "always"},
    {"model.model_config.use_gmm", "always"},
    {"model.model_config.use_pad_tokens", "experts may stay without a token"},
    {"model.model_config.moe_router_pre_softmax", "by the router"},
    {"moe_config.use_gmm", "always: experts take any number of tokens"},
    {"moe_config.enable_gmm_safe_tokens", "experts may stay without a token"},
    {"moe_config.expert_group_size", "of another router"},
    {"moe_config.aux_loss_factor",
     "MindFormers' TopkRouterV2 does not use it; aux_loss_factors holds the weights"},
    {"moe_config.enable_sdrop", "no token is ever dropped"},
    {"moe_config.max_router_load", "experts take any number of tokens"},
    {"moe_config.group_wise_a2a", "how ranks share the work is Fathom's choice"},
    {"moe_config.comp_comm_parallel", "how ranks share the work is Fathom's choice"},
    {"moe_config.comp_comm_parallel_degree", "how ranks share the work is Fathom's choice"},
    {"moe_config.use_allgather_dispatcher", "how ranks share the work is Fathom's choice"},
    {"moe_config.moe_shared_expert_overlap", "how ranks share the work is Fathom's choice"},
    {"moe_config.enable_deredundency", "how ranks share the work is Fathom's choice"},
    {"moe_config.npu_nums_per_device", "how ranks share the work is Fathom's choice"},
    {"moe_config.use_3d_tensor_parallel", "how ranks share the work is Fathom's choice"},
    {"moe_config.tp_x", "how ranks share the work is Fathom's choice"},
    {"moe_config.tp_y", "how ranks share the work is Fathom's choice"},
    {"moe_config.tp_z", "how ranks share the work is Fathom's choice"},
    {"moe_config.ep_extend_tp", "how ranks share the work is Fathom's choice"},
    {"moe_config.dispatch_global_max_bs", "experts take any number of tokens"},
    {"moe_config.use_fused_ops_topkrouter", "one kernel anyway"},
    {"moe_config.use_fused_ops_permute", "one kernel anyway"},
    {"moe_config.callback_moe_droprate", "no token is ever dropped"},
    {"moe_config.save_token_distribution", "expert_load.jsonl has it"},
    {"moe_config.cur_layer", "of MindFormers' own bookkeeping"},
    {"moe_config.moe_module_name", "of MindFormers' own bookkeeping"},
    {"moe_config.enable_cold_hot_expert", "experts stay where they are"},
    {"moe_config.update_step", "experts stay where they are"},
    {"moe_config.hot_expert_num", "experts stay where they are"},
    {"moe_config.cold_token_percent", "experts stay where they are"},
};

// A switch that must stand at its usual value.
struct Fixed {
  const char* path;
  bool usual;
  const char* note;  // what holds here
};

const Fixed kFixed[] = {
    {"model.model_config.qkv_has_bias", false, "projections have no bias"},
    {"model.model_config.add_bias_linear", false, "projections have no bias"},
    {"model.model_config.attention_bias", false, "projections have no bias"},
    {"model.model_config.tie_word_embeddings", false, "embedding and head are two matrices"},
    {"model.model_config.gated_linear_unit", true, "the MLP is SwiGLU"},
    {"model.model_config.qk_layernorm", true, "both latents are normed"},
};

void translate_fixed(Translation& t) {
  for (const Fixed& fixed : kFixed) {
    if (t.boolean(fixed.path, fixed.usual) == fixed.usual)
      t.rest_is_meaningless(fixed.path, fixed.note);
    else
      t.unsupported(fixed.path, fixed.note, KeyEffect::blocks);
  }
  const std::string multiplier = "model.model_config.ffn_dim_multiplier",
                    act = "model.model_config.hidden_act";
  t.know(multiplier);
  if (t.find(multiplier))
    t.unsupported(multiplier, "intermediate_size is the size itself", KeyEffect::blocks);
  const std::string activation = t.text(act, "silu");
  if (activation == "silu" || activation == "swiglu")
    t.rest_is_meaningless(act, "the MLP is SwiGLU");
  else
    t.unsupported(act, "the MLP is SwiGLU", KeyEffect::blocks);
  for (const char* path : {"model.model_config.hidden_dropout", "model.model_config.attention_dropout"}) {
    if (t.number(path, 0) == 0)
      t.rest_is_meaningless(path, "no dropout");
    else
      t.unsupported(path, "there is no dropout here", KeyEffect::differs);
  }
  const std::string profile = "profile", swap = "swap_config.swap";
  if (t.boolean(profile, false))
    t.unsupported(profile, "is not carried over", KeyEffect::none);
  else
    t.rest_is_meaningless(profile, "off");
  if (t.boolean(swap, false))
    t.unsupported(swap, "nothing is moved to the host; the run is the same", KeyEffect::none);
  t.rest_is_meaningless("swap_config", "nothing is moved to the host");
}

void translate_quantization(Translation& t) {
  const std::string section = "model.model_config.quantization_config";
  t.know(section);
  if (!t.find(section)) return;
  t.unsupported(section + ".quant_method",
                "Fathom reads HF's quantised checkpoints, whose config.json says how; the recipe's model is "
                "not quantised",
                KeyEffect::differs);
  t.rest_is_meaningless(section, "see quant_method");
}

// How the predict YAML generates, as flags.
void translate_generation(Translation& t) {
  std::string flags;
  const std::string model = "model.model_config.",
                    sample = t.either({"model.model_config.do_sample", "generation.do_sample"});
  const bool is_sampled = t.boolean(sample, false);
  const auto flag = [&](const std::string& path, const std::string& text) {
    flags += " " + text;
    if (t.find(path)) t.mapped(path, "fathom generate " + text);
  };
  const std::string length = t.either({"generation.max_new_tokens", "model.model_config.max_new_tokens"});
  const std::string whole = t.either({"model.model_config.max_decode_length", "generation.max_length"});
  if (t.find(length))
    flag(length, fmt::format("--max-new-tokens {}", t.integer(length, 128)));
  else if (t.find(whole))
    flag(whole, fmt::format("--max-new-tokens {}", t.integer(whole, 1024)));
  const std::string k = t.either({"model.model_config.top_k", "generation.top_k"}),
                    p = t.either({"model.model_config.top_p", "generation.top_p"}),
                    temperature = t.either({"generation.temperature", "model.model_config.temperature"}),
                    penalty =
                        t.either({"model.model_config.repetition_penalty", "generation.repetition_penalty"});
  if (!is_sampled) {
    flag(sample, "--temperature 0");
    for (const std::string& path : {k, p, temperature}) t.rest_is_meaningless(path, "do_sample is off");
  } else {
    if (t.find(k)) flag(k, fmt::format("--top-k {}", t.integer(k, 0)));
    if (t.find(p)) flag(p, fmt::format("--top-p {}", t.number(p, 1)));
    flag(temperature, fmt::format("--temperature {}", t.number(temperature, 1)));
    t.by_default(sample, "a temperature above 0 samples");
  }
  if (t.number(penalty, 1) == 1)
    t.rest_is_meaningless(penalty, "off");
  else
    t.unsupported(penalty, "fathom generate has no such flag", KeyEffect::differs);
  t.rest_is_meaningless("generation", "see fathom generate --help");
  t.rest_is_meaningless("processor.tokenizer", "the checkpoint brings its tokenizer.json and chat template");
  t.commands.push_back(fmt::format("fathom generate DIR --prompt \"...\"{}", flags));
}

void translate_callbacks(Translation& t) {
  const Tree* callbacks = t.find("callbacks");
  t.know("callbacks");
  bool saves = false;
  for (size_t i = 0; callbacks && i < callbacks->items.size(); ++i) {
    const std::string prefix = fmt::format("callbacks.{}", i), type = t.text(prefix + ".type", "");
    if (type == "CheckpointMonitor" && t.use == RecipeUse::training) {
      saves = true;
      const std::string every = prefix + ".save_checkpoint_steps", keep = prefix + ".keep_checkpoint_max";
      t.carried(every, t.put("checkpoint.every", t.integer(every, 1)));
      t.carried(keep, t.put("checkpoint.keep", t.integer(keep, 5)));
      t.rest_is_meaningless(prefix + ".save_checkpoint_seconds", "by steps");
      t.rest_is_meaningless(prefix, "checkpoints are whole HF directories, saved in the background");
    } else if (type == "MFLossMonitor" && t.use == RecipeUse::training) {
      const std::string every = prefix + ".per_print_times";
      t.carried(every, t.put("log.every", std::max<int64_t>(t.integer(every, 1), 1)));
      t.rest_is_meaningless(prefix, "Fathom's own step lines");
    } else if (type == "EarlyStopCallback" || type == "MaskedSparseCallback" ||
               type == "StressDetectCallback") {
      t.unsupported(prefix + ".type", "is not carried over",
                    type == "StressDetectCallback" ? KeyEffect::none : KeyEffect::blocks);
      t.rest_is_meaningless(prefix, "see its type");
    } else {
      t.rest_is_meaningless(prefix, "a monitor of MindFormers'");
    }
  }
  if (!saves && t.use == RecipeUse::training)
    t.by_default("callbacks",
                 "without a CheckpointMonitor MindFormers saves nothing; Fathom saves at the end: " +
                     t.put("checkpoint.every", int64_t{0}));
}

}  // namespace

void translate_checkpoint(Translation& t) {
  const std::string own = "load_checkpoint", of_model = "model.model_config.checkpoint_name_or_path";
  const std::string load = t.text(own, "").empty() && !t.text(of_model, "").empty() ? of_model : own;
  const std::string resume = "resume_training";
  t.carried("output_dir", t.put("output_dir", t.text("output_dir", "./output")),
            "relative to the working directory, as there");
  const std::string path = t.text(load, "");
  t.know(resume);
  const Tree* node = t.find(resume);
  const bool is_resumed = node && node->text != "False" && node->text != "false";
  if (path.empty()) {
    t.rest_is_meaningless(own, "starts from new weights");
    if (node) t.by_default(resume, "the same command goes on by itself");
  } else {
    const std::string layout = "an HF checkpoint; fathom convert reads MindFormers' layouts";
    t.mapped(load, t.put("checkpoint.load", t.path_from_recipe(path)), layout);
    if (is_resumed)
      t.mapped(resume, t.put("checkpoint.load_optimizer", true),
               "a run goes on by itself; this is for another run's state");
    else if (node)
      t.by_default(resume, "weights only");
    t.commands.push_back(
        fmt::format("fathom convert {} DIR    (a MindFormers checkpoint as an HF one)", path));
  }
  t.rest_is_meaningless(of_model, path.empty() ? "starts from new weights" : "load_checkpoint comes first");
  t.rest_is_meaningless(own, "see the model's checkpoint_name_or_path");
  for (const char* key : {"load_ckpt_format", "load_ckpt_async", "auto_trans_ckpt", "transform_process_num",
                          "src_strategy_path_or_dir", "only_save_strategy"})
    t.rest_is_meaningless(key, "any layout of ranks loads any checkpoint");
  const std::string skip = "ignore_data_skip", steps = "data_skip_steps";
  if (t.boolean(skip, false))
    t.unsupported(skip, "a run that goes on takes the samples after those it has seen", KeyEffect::differs);
  else
    t.rest_is_meaningless(skip, "a run that goes on takes the samples after those it has seen");
  if (t.integer(steps, 0) != 0)
    t.unsupported(steps, "a run begins with the first sample of its order", KeyEffect::blocks);
  else
    t.rest_is_meaningless(steps, "none");
  translate_callbacks(t);
}

void translate_rest(Translation& t) {
  translate_fixed(t);
  if (t.use == RecipeUse::inference) {
    translate_quantization(t);
    translate_generation(t);
    for (const char* key :
         {"aux_loss_types", "aux_loss_factors", "balance_via_topk_bias", "topk_bias_update_rate"})
      t.rest_is_meaningless(std::string("moe_config.") + key, "of training");
    for (const char* key :
         {"mtp_loss_factor", "mtp_loss_scaling_factor", "return_extra_loss", "moe_aux_loss_coeff",
          "moe_router_load_balancing_type", "moe_router_bias_update_rate"})
      t.rest_is_meaningless(std::string("model.model_config.") + key, "of training");
    for (const char* section : {"recompute_config",
                                "optimizer",
                                "lr_schedule",
                                "runner_config",
                                "runner_wrapper",
                                "train_dataset",
                                "train_dataset_task",
                                "eval_dataset",
                                "eval_dataset_task",
                                "micro_batch_interleave_num",
                                "do_eval",
                                "eval_callbacks",
                                "seed",
                                "layer_scale",
                                "layer_decay",
                                "lr_scale",
                                "lr_scale_factor",
                                "eval_step_interval",
                                "eval_epoch_interval",
                                "parallel"})
      t.rest_is_meaningless(section, "of training");
  } else {
    t.rest_is_meaningless("generation", "of prediction");
    for (const char* key : {"repetition_penalty", "max_decode_length", "top_k", "top_p", "do_sample"})
      t.rest_is_meaningless(std::string("model.model_config.") + key, "of prediction");
  }
  for (const Idle& idle : kIdle) t.rest_is_meaningless(idle.path, idle.note);
}

}  // namespace fathom::config

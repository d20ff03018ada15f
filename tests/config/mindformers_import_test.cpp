// YAMLs of MindFormers as recipes. The fixtures are put together for these tests from the keys and values that its
// DeepSeek-V3 YAMLs have; edits are made as `--set` would make them.
#include "config/mindformers_import.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "config/stage_layers.h"
#include "support/scratch.h"

namespace fathom::config {
namespace {

using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using Edits = std::vector<std::string>;

const fs::path kSource = FATHOM_SOURCE_DIR;
const fs::path kPretrain = kSource / "tests/config/data/mindformers_671b.yaml";
const fs::path kPredict = kSource / "tests/config/data/mindformers_predict.yaml";

// As MindFormers' handbook edits its pre-training YAML for one machine of 8 devices.
const Edits kHandbook = {"model.model_config.hidden_size=2048", "model.model_config.num_layers=3",
                         "model.model_config.num_heads=8",      "model.model_config.intermediate_size=6144",
                         "model.model_config.offset=0",         "moe_config.expert_num=16",
                         "callbacks.1.expert_num=16",           "moe_config.first_k_dense_replace=1",
                         "parallel_config.data_parallel=2",     "parallel_config.model_parallel=2",
                         "parallel_config.pipeline_stage=2",    "parallel_config.expert_parallel=2",
                         "parallel_config.micro_batch_num=4",   "callbacks.1.micro_batch_num=4",
                         "recompute_config.recompute=False"};

// As its fine-tuning YAML differs from the one for pre-training.
const Edits kFinetune = {
    "train_dataset={data_loader: {type: MindDataset, dataset_dir: ./alpaca, shuffle: False}, "
    "input_columns: [input_ids, labels]}",
    "train_dataset_task.dataset_config=null",
    "lr_schedule={type: CosineWithWarmUpLR, learning_rate: 5.e-6, lr_end: 1.e-6, warmup_ratio: "
    "0.02, total_steps: -1}",
    "moe_config.use_gmm=False", "model.model_config.input_sliced_sig=null"};

struct Imported {
  MindFormersImport result;
  Recipe recipe;

  // The only line of the report about a key.
  const ImportedKey& key(const std::string& path) const {
    const ImportedKey* found = nullptr;
    for (const ImportedKey& key : result.keys)
      if (key.key == path) found = &key;
    if (!found) throw std::out_of_range(path + " is not in the report");
    return *found;
  }
  std::vector<std::string> with(KeyEffect effect) const {
    std::vector<std::string> paths;
    for (const ImportedKey& key : result.keys)
      if (key.effect == effect) paths.push_back(key.key);
    return paths;
  }
};

MindFormersImport import_edited(const fs::path& file, const Edits& edits) {
  Tree yaml = read_yaml_file(file);
  for (const std::string& edit : edits) apply_override(yaml, edit);
  return import_mindformers(yaml, fs::current_path());
}

Imported import(const fs::path& file, Edits edits = {}, const Edits& more = {},
                const std::vector<std::string>& sets = {}) {
  edits.insert(edits.end(), more.begin(), more.end());
  Imported imported;
  imported.result = import_edited(file, edits);
  imported.recipe =
      parse_recipe(imported.result.recipe_yaml, fs::current_path() / "r.yaml", sets, imported.result.use);
  return imported;
}
Imported pretrain(const Edits& edits = {}) { return import(kPretrain, {}, edits); }
Imported handbook(const Edits& edits = {}) { return import(kPretrain, kHandbook, edits); }

TEST(MindFormersImport, the_671b_recipe_of_1024_ranks) {
  const Imported imported = pretrain();
  const Recipe& r = imported.recipe;
  EXPECT_THAT(imported.with(KeyEffect::blocks), IsEmpty());
  EXPECT_EQ(r.parallel.data * r.parallel.tensor * r.parallel.pipeline * r.parallel.context, 1024);
  EXPECT_EQ(r.parallel.expert, 8);
  EXPECT_EQ(r.parallel.expert_tensor, 1);
  EXPECT_EQ(r.parallel.zero, 1);
  EXPECT_TRUE(r.parallel.sequence);
  const std::vector<int64_t> layers = stage_layers(r.model, r.parallel);
  EXPECT_EQ(layers.size(), 16U);
  EXPECT_THAT(std::vector<int64_t>(layers.begin(), layers.end() - 1), Each(4));
  EXPECT_EQ(layers.back(), 2);
  EXPECT_THAT(r.train.recompute.layers, ElementsAre(3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 3, 2, 0));
  EXPECT_EQ(r.train.global_batch_size.at(0), 512);
  EXPECT_EQ(r.train.micro_batch_size, 1);
  EXPECT_EQ(r.train.steps, 18);  // 2 x (5025 / 512)
  EXPECT_EQ(r.train.precision, Precision::bf16);
  EXPECT_EQ(r.train.lr.schedule, LrScheduleKind::constant);
  EXPECT_EQ(r.train.lr.peak, 2.2e-4);
  EXPECT_EQ(r.train.clip_grad_norm, 1);
  EXPECT_EQ(r.train.mtp_loss_weight.at(0), 0.3);
  EXPECT_EQ(r.train.balance.bias_update_rate.at(0), 0.001);
  EXPECT_EQ(r.train.balance.sequence_aux_loss, 0.0001);
  EXPECT_EQ(r.checkpoint.every, 1000);
  EXPECT_EQ(r.checkpoint.keep, 5);
  EXPECT_EQ(r.data.seq_length, 4096);
}

TEST(MindFormersImport, the_model_is_deepseek_v3s_but_for_what_the_yaml_says_otherwise) {
  const ModelConfig imported = pretrain().recipe.model;
  const ModelConfig own = read_model_config(kSource / "configs/models/deepseek-v3-671b-4k.json");
  const Json a = to_json(imported), b = to_json(own);
  const std::set<std::string> otherwise = {"n_group", "topk_group"};  // MindFormers trains without groups
  for (const auto& [key, value] : a.items())
    if (b.contains(key) && !otherwise.count(key)) {
      EXPECT_EQ(value, b[key]) << key;
    }
  EXPECT_EQ(imported.n_group, 1);
  EXPECT_EQ(imported.topk_group, 1);
}

// Every value of the YAML has one line, and says where it stands.
TEST(MindFormersImport, every_key_is_reported_once) {
  for (const fs::path& file : {kPretrain, kPredict}) {
    const MindFormersImport result = import_edited(file, {});
    std::set<std::string> paths;
    for (const ImportedKey& key : result.keys) {
      EXPECT_TRUE(paths.insert(key.key).second) << key.key << " twice";
      EXPECT_TRUE(key.line > 0 || key.fate != KeyFate::mapped) << key.key;
    }
    const auto expect_reported = [&](const auto& self, const Tree& tree) -> void {
      if (tree.path == "train_dataset_task.dataset_config") return;  // one line for all of it
      const bool is_list = tree.kind == Tree::Kind::sequence && !tree.items.empty() &&
                           tree.items.front().kind == Tree::Kind::mapping;
      if (tree.kind == Tree::Kind::mapping) {
        for (const auto& [name, value] : tree.entries) self(self, value);
      } else if (is_list) {
        for (const Tree& item : tree.items) self(self, item);
      } else {
        EXPECT_TRUE(paths.count(tree.path)) << tree.path;
      }
    };
    expect_reported(expect_reported, read_yaml_file(file));
  }
}

TEST(MindFormersImport, what_differs_is_said_in_the_report_and_on_top_of_the_recipe) {
  const Imported imported = pretrain();
  EXPECT_THAT(imported.with(KeyEffect::differs),
              ElementsAre("model.model_config.bos_token_id", "model.model_config.eos_token_id",
                          "model.model_config.pad_token_id", "moe_config.aux_loss_types"));
  const std::string report = report_text(imported.result), &yaml = imported.result.recipe_yaml;
  EXPECT_THAT(report, AllOf(HasSubstr("not the same here as there"), HasSubstr("0 unsupported")));
  EXPECT_THAT(yaml, HasSubstr("# - moe_config.aux_loss_types"));
  EXPECT_LT(yaml.find("# - moe_config.aux_loss_types"), yaml.find("output_dir"));
  const Json json = report_json(imported.result);
  EXPECT_EQ(json["use"], "training");
  EXPECT_EQ(json["keys"].size(), imported.result.keys.size());
  EXPECT_EQ(json["recipe"], yaml);
}

TEST(MindFormersImport, the_handbooks_single_machine_with_widths_scaled_down) {
  const Imported imported =
      import(kPretrain, kHandbook, {},
             {"model.hidden_size=64", "model.intermediate_size=96", "model.moe_intermediate_size=32",
              "model.q_lora_rank=32", "model.kv_lora_rank=16", "model.vocab_size=256", "data.seq_length=64"});
  const Recipe& r = imported.recipe;
  EXPECT_THAT(imported.with(KeyEffect::blocks), IsEmpty());
  EXPECT_EQ(r.parallel.data, 2);
  EXPECT_EQ(r.parallel.tensor, 2);
  EXPECT_EQ(r.parallel.pipeline, 2);
  EXPECT_EQ(r.parallel.expert, 2);
  EXPECT_THAT(stage_layers(r.model, r.parallel), ElementsAre(2, 2));
  EXPECT_EQ(r.train.global_batch_size.at(0), 8);  // 1 x 2 ranks x 4 micro-batches
  EXPECT_EQ(r.train.steps, 2 * (5025 / 8));
  EXPECT_EQ(r.train.lr.warmup_steps, 25);  // int(0.02 x 1256)
  EXPECT_EQ(r.train.recompute.kind, RecomputeKind::none);
  EXPECT_EQ(r.model.hidden_size, 64);
  EXPECT_EQ(r.model.num_hidden_layers, 3);
  EXPECT_EQ(r.model.n_routed_experts, 16);
  // The handbook leaves 128 of them beside 8 heads; latent attention does not look at it.
  EXPECT_EQ(imported.key("model.model_config.n_kv_heads").fate, KeyFate::meaningless);
}

TEST(MindFormersImport, fine_tuning) {
  const Imported imported = import(kPretrain, kFinetune, {"run_mode=finetune", "load_checkpoint=./base"});
  const Recipe& r = imported.recipe;
  EXPECT_THAT(imported.with(KeyEffect::blocks), IsEmpty());
  EXPECT_EQ(r.data.kind, "sft");
  EXPECT_EQ(r.data.train[0].path, fs::current_path() / "alpaca");
  EXPECT_EQ(r.train.epochs, 2);  // how many samples a MindRecord has is not known before it is read
  EXPECT_EQ(r.train.lr.schedule, LrScheduleKind::cosine);
  EXPECT_EQ(r.train.lr.peak, 5e-6);
  EXPECT_EQ(r.train.lr.min, 1e-6);
  EXPECT_EQ(r.train.lr.warmup_ratio, 0.02);
  EXPECT_EQ(r.checkpoint.load, fs::current_path() / "base");
  EXPECT_FALSE(r.checkpoint.load_optimizer);
  // Two things that MindFormers does to its users without saying so.
  EXPECT_EQ(imported.key("moe_config.capacity_factor").fate, KeyFate::unsupported);
  EXPECT_EQ(imported.key("moe_config.capacity_factor").effect, KeyEffect::differs);
  EXPECT_EQ(imported.key("model.model_config.input_sliced_sig").effect, KeyEffect::differs);
}

TEST(MindFormersImport, prediction) {
  const Imported imported = import(kPredict);
  const Recipe& r = imported.recipe;
  EXPECT_EQ(imported.result.use, RecipeUse::inference);
  EXPECT_THAT(imported.with(KeyEffect::blocks), IsEmpty());
  EXPECT_EQ(r.parallel.tensor, 32);
  EXPECT_EQ(r.parallel.expert_tensor, 32);  // all ranks share each expert
  EXPECT_EQ(r.model.n_group, 8);
  EXPECT_EQ(r.model.topk_group, 4);
  EXPECT_EQ(r.model.scoring_func, ScoringFunc::sigmoid);
  EXPECT_EQ(r.model.num_nextn_predict_layers, 0);
  ASSERT_TRUE(r.model.rope_scaling);
  EXPECT_EQ(r.model.rope_scaling->factor, 40);
  EXPECT_EQ(r.model.rope_scaling->mscale_all_dim, 1);
  EXPECT_EQ(r.model.max_position_embeddings, 163840);
  EXPECT_EQ(r.checkpoint.load, "/weights/deepseek_v3");
  EXPECT_THAT(
      imported.result.commands,
      testing::Contains("fathom generate DIR --prompt \"...\" --max-new-tokens 1024 --temperature 0"));
  const Imported experts =
      import(kPredict, {"parallel_config={data_parallel: 4, model_parallel: 4, expert_parallel: 16}"});
  EXPECT_EQ(experts.recipe.parallel.expert, 16);
  EXPECT_EQ(experts.recipe.parallel.expert_tensor, 1);
  const Imported int8 =
      import(kPredict, {"model.model_config.quantization_config={quant_method: ptq, weight_dtype: int8}"});
  EXPECT_EQ(int8.key("model.model_config.quantization_config.quant_method").fate, KeyFate::unsupported);
}

// MindFormers ignores most misspelt keys without a word.
TEST(MindFormersImport, a_misspelt_key_is_named_with_the_nearest) {
  const Imported imported = pretrain({"model.model_config.hiden_size=64", "optimizer.weight_decy=0.1",
                                      "seq_lenght=7", "moe_config.n_groups=4"});
  EXPECT_THAT(imported.with(KeyEffect::blocks),
              testing::UnorderedElementsAre("model.model_config.hiden_size", "optimizer.weight_decy",
                                            "seq_lenght", "moe_config.n_groups"));
  EXPECT_THAT(imported.key("model.model_config.hiden_size").note,
              AllOf(HasSubstr("ignores"), HasSubstr("did you mean model.model_config.hidden_size?")));
  EXPECT_THAT(imported.key("optimizer.weight_decy").note, HasSubstr("did you mean optimizer.weight_decay?"));
  EXPECT_THAT(imported.key("moe_config.n_groups").note,
              AllOf(HasSubstr("refuses"), HasSubstr("moe_config.n_group?")));
  EXPECT_EQ(imported.recipe.model.hidden_size, 7168);
}

struct OneKey {
  std::string edit;  // of the handbook's YAML
  std::string key;   // whose line is looked at
  KeyFate fate;
  KeyEffect effect;
  std::string becomes;  // part of it
};

class MindFormersKey : public testing::TestWithParam<OneKey> {};

TEST_P(MindFormersKey, becomes) {
  const OneKey& one = GetParam();
  const MindFormersImport result = import_edited(kPretrain, [&] {
    Edits edits = kHandbook;
    edits.push_back(one.edit);
    return edits;
  }());
  Imported imported{result, {}};
  const ImportedKey& key = imported.key(one.key);
  EXPECT_EQ(name(key.fate), std::string(name(one.fate))) << one.edit << ": " << key.note;
  EXPECT_EQ(static_cast<int>(key.effect), static_cast<int>(one.effect)) << one.edit << ": " << key.note;
  EXPECT_THAT(key.becomes, HasSubstr(one.becomes)) << one.edit;
  if (one.effect != KeyEffect::blocks) {
    EXPECT_NO_THROW(parse_recipe(result.recipe_yaml, fs::current_path() / "r.yaml", {}, result.use))
        << one.edit;
  }
}

constexpr auto kMapped = KeyFate::mapped, kDefault = KeyFate::by_default, kIdle = KeyFate::meaningless,
               kUnsupported = KeyFate::unsupported;
constexpr auto kSame = KeyEffect::none, kDiffers = KeyEffect::differs, kBlocks = KeyEffect::blocks;
const std::string kM = "model.model_config.", kD = "train_dataset.data_loader.config.";

INSTANTIATE_TEST_SUITE_P(
    Optimizer, MindFormersKey,
    testing::Values(
        // Left out, weight decay is 0 there and 0.1 here: the recipe says 0.
        OneKey{"optimizer.type=AdamW", "optimizer.weight_decay", kDefault, kSame, "weight_decay: 0.0"},
        OneKey{"optimizer.weight_decay=0.1", "optimizer.weight_decay", kMapped, kSame, "weight_decay: 0.1"},
        OneKey{"optimizer.betas=null", "optimizer.betas", kDefault, kSame, "[0.9,0.999]"},
        OneKey{"optimizer.type=Came", "optimizer.type", kUnsupported, kBlocks, ""},
        OneKey{"optimizer.learning_rate=1", "optimizer.learning_rate", kIdle, kSame, ""},
        OneKey{"lr_schedule.warmup_lr_init=1.e-6", "lr_schedule.warmup_lr_init", kUnsupported, kBlocks, ""},
        OneKey{"lr_schedule.warmup_ratio=null", "lr_schedule.warmup_steps", kDefault, kSame,
               "warmup_steps: 0"},
        OneKey{"lr_schedule.warmup_steps=7", "lr_schedule.warmup_steps", kIdle, kSame, ""},
        OneKey{"lr_schedule.total_steps=5000", "lr_schedule.total_steps", kUnsupported, kBlocks, ""},
        OneKey{"lr_schedule.total_steps=100", "lr_schedule.warmup_ratio", kMapped, kSame, "warmup_steps: 2"},
        OneKey{"lr_schedule.lr_end=1.e-5", "lr_schedule.lr_end", kIdle, kSame, ""},
        OneKey{"lr_schedule.type=CosineAnnealingLR", "lr_schedule.type", kUnsupported, kBlocks, ""},
        OneKey{"lr_schedule.type=LinearWithWarmUpLR", "lr_schedule.type", kMapped, kSame, "linear"},
        OneKey{"lr_schedule={type: WarmUpStableDecayLR, learning_rate: 1.e-3, decay_start_ratio: 0.75, "
               "warmup_steps: 9}",
               "lr_schedule.decay_start_ratio", kMapped, kSame, "decay_steps: 314"},
        OneKey{"lr_schedule={type: CosineWithWarmUpLR, learning_rate: 1.e-3, num_cycles: 2}",
               "lr_schedule.num_cycles", kUnsupported, kBlocks, ""},
        OneKey{"runner_wrapper.use_clip_grad=False", "runner_wrapper.use_clip_grad", kMapped, kSame,
               "clip_grad_norm: 0.0"},
        OneKey{"runner_wrapper.max_grad_norm=0.5", "runner_wrapper.max_grad_norm", kMapped, kSame,
               "clip_grad_norm: 0.5"},
        OneKey{"layer_scale=True", "layer_scale", kUnsupported, kBlocks, ""}));

INSTANTIATE_TEST_SUITE_P(
    Model, MindFormersKey,
    testing::Values(
        OneKey{kM + "compute_dtype=float16", kM + "compute_dtype", kUnsupported, kBlocks, ""},
        OneKey{kM + "compute_dtype=float32", kM + "compute_dtype", kMapped, kSame, "fp32"},
        OneKey{kM + "param_init_type=bfloat16", kM + "param_init_type", kMapped, kSame, "bf16_pure"},
        OneKey{kM + "layernorm_compute_type=bfloat16", kM + "layernorm_compute_type", kIdle, kDiffers, ""},
        OneKey{kM + "extend_method=YARN", kM + "extend_method", kUnsupported, kBlocks, ""},
        OneKey{kM + "extend_method=NTK", kM + "extend_method", kUnsupported, kBlocks, ""},
        OneKey{kM + "qkv_has_bias=True", kM + "qkv_has_bias", kUnsupported, kBlocks, ""},
        OneKey{kM + "init_method_std=0.01", kM + "init_method_std", kMapped, kSame,
               "initializer_range: 0.01"},
        OneKey{kM + "q_lora_rank=0", kM + "q_lora_rank", kMapped, kSame, "q_lora_rank: null"},
        OneKey{kM + "bos_token_id=0", kM + "bos_token_id", kMapped, kSame, "bos_token_id: 0"},
        OneKey{kM + "vocab_size=102400", kM + "bos_token_id", kMapped, kSame, "bos_token_id: 100000"},
        OneKey{kM + "seq_length=2048", kM + "seq_length", kUnsupported, kBlocks, ""},
        OneKey{kM + "return_extra_loss=False", "moe_config.aux_loss_types", kMapped, kSame,
               "sequence_aux_loss: 0.0"},
        OneKey{"moe_config.aux_loss_types=[expert, device]", "moe_config.aux_loss_types", kMapped, kDiffers,
               "0.0001"},
        OneKey{"moe_config.aux_loss_types=[device]", "moe_config.aux_loss_types", kUnsupported, kBlocks, ""},
        OneKey{"moe_config.aux_loss_types=null", "moe_config.aux_loss_types", kDefault, kSame,
               "sequence_aux_loss: 0.0"},
        OneKey{"moe_config.use_gating_sigmoid=False", "moe_config.balance_via_topk_bias", kUnsupported,
               kBlocks, ""},
        OneKey{"moe_config.n_group=8", "moe_config.n_group", kIdle, kSame, ""},
        OneKey{"moe_config.routing_policy=TopkRouterV1", "moe_config.routing_policy", kUnsupported, kBlocks,
               ""},
        OneKey{"callbacks.1.topk_bias_update_rate=0.01", "callbacks.1.topk_bias_update_rate", kMapped,
               kDiffers, "bias_update_rate: 0.01"},
        OneKey{"callbacks.1.type=MFLossMonitor", "moe_config.balance_via_topk_bias", kUnsupported, kDiffers,
               ""},
        OneKey{"callbacks.1.micro_batch_num=1", "callbacks.1.micro_batch_num", kIdle, kDiffers, ""},
        OneKey{"moe_config.use_gmm=False", "moe_config.capacity_factor", kUnsupported, kDiffers, ""}));

INSTANTIATE_TEST_SUITE_P(
    Layout, MindFormersKey,
    testing::Values(
        OneKey{kM + "offset=[1, -1]", kM + "offset", kMapped, kSame, "[1,-1]"},
        OneKey{kM + "offset=[1, 0]", kM + "offset", kUnsupported, kBlocks, ""},
        OneKey{kM + "offset=[0, 0, 0]", kM + "offset", kUnsupported, kBlocks, ""},
        OneKey{kM + "num_layers=4", kM + "offset", kUnsupported, kBlocks, ""},
        OneKey{kM + "pp_interleave_num=2", kM + "pp_interleave_num", kIdle, kSame, ""},
        OneKey{"parallel.pipeline_config={pipeline_interleave: True, pipeline_scheduler: zero_bubble_v}",
               "parallel.pipeline_config.pipeline_scheduler", kMapped, kSame, "zero_bubble"},
        OneKey{"parallel.parallel_mode=0", "parallel.parallel_mode", kUnsupported, kBlocks, ""},
        OneKey{"parallel.enable_parallel_optimizer=False", "parallel.enable_parallel_optimizer", kMapped,
               kSame, "zero: 0"},
        OneKey{"parallel.parallel_optimizer_config.gradient_accumulation_shard=True",
               "parallel.parallel_optimizer_config.gradient_accumulation_shard", kMapped, kSame, "zero: 2"},
        OneKey{"recompute_config.recompute=True", "recompute_config.recompute", kMapped, kSame, "full"},
        OneKey{"recompute_config.recompute=[9, 1]", "recompute_config.recompute", kMapped, kSame, "[2,1]"},
        OneKey{"recompute_config.recompute=[True, False]", "recompute_config.recompute", kMapped, kSame,
               "[2,0]"},
        OneKey{"recompute_config.recompute=[1]", "recompute_config.recompute", kUnsupported, kSame, ""},
        OneKey{"recompute_config.select_recompute=True", "recompute_config.select_recompute", kMapped, kSame,
               "selective"},
        OneKey{"micro_batch_interleave_num=2", "micro_batch_interleave_num", kMapped, kSame,
               "global_batch_size: 16"},
        OneKey{"runner_config.gradient_accumulation_steps=3", "runner_config.gradient_accumulation_steps",
               kIdle, kSame, ""},
        OneKey{"parallel_config.seq_split_num=2", "parallel_config.seq_split_num", kUnsupported, kSame, ""}));

INSTANTIATE_TEST_SUITE_P(
    Data, MindFormersKey,
    testing::Values(
        OneKey{kD + "split=\"969, 30, 1\"", kD + "split", kMapped, kSame, "969,30,1"},
        OneKey{kD + "data_path=[\"3\", a, \"7\", b]", kD + "data_path", kMapped, kSame, "\"weight\":7.0"},
        OneKey{kD + "data_path=null", kD + "data_path", kUnsupported, kBlocks, ""},
        OneKey{kD + "random_seed=99", kD + "random_seed", kIdle, kDiffers, ""},
        OneKey{kD + "seed=99", kD + "seed", kMapped, kSame, "seed: 99"},
        // The YAML's construct_args_key keeps the mask from the model there.
        OneKey{kD + "reset_attention_mask=True", kD + "reset_attention_mask", kMapped, kDiffers, "true"},
        OneKey{"runner_config.epochs=3", "runner_config.epochs", kMapped, kSame, "steps: 1884"},
        OneKey{"train_dataset.repeat=2", "runner_config.epochs", kMapped, kSame, "steps: 2512"},
        OneKey{"train_dataset.data_loader.sizes=[4, 0, 0]", "train_dataset.data_loader.sizes", kUnsupported,
               kBlocks, ""},
        OneKey{"callbacks.2.type=ProfileMonitor", "callbacks", kDefault, kSame, ""},
        OneKey{"data_skip_steps=5", "data_skip_steps", kUnsupported, kBlocks, ""},
        OneKey{"profile=True", "profile", kUnsupported, kSame, ""}));

// Tests edit train_dataset, so its copy must not stand beside it.
TEST(MindFormersImport, another_dataset_in_the_task_is_refused) {
  const Imported same = pretrain();
  EXPECT_EQ(same.key("train_dataset_task.dataset_config").fate, KeyFate::meaningless);
  const MindFormersImport other =
      import_edited(kPretrain, {"train_dataset_task.dataset_config={type: other}"});
  EXPECT_EQ((Imported{other, {}}).key("train_dataset_task.dataset_config").effect, KeyEffect::blocks);
}

TEST(MindFormersImport, one_pipeline_stage_takes_gradient_accumulation) {
  const Imported imported =
      handbook({"parallel_config.pipeline_stage=1", "runner_config.gradient_accumulation_steps=3"});
  EXPECT_EQ(imported.recipe.train.global_batch_size.at(0), 6);
  EXPECT_EQ(imported.key("parallel_config.micro_batch_num").fate, KeyFate::meaningless);
  // Every bias would rise together there: the callback compares with 4 micro-batches' load.
  EXPECT_EQ(imported.key("callbacks.1.micro_batch_num").effect, KeyEffect::differs);
}

TEST(MindFormersImport, one_device) {
  const Imported imported = handbook({"use_parallel=False"});
  EXPECT_EQ(imported.recipe.parallel.data, 1);
  EXPECT_EQ(imported.recipe.parallel.pipeline, 1);
  EXPECT_EQ(imported.key("parallel_config.data_parallel").fate, KeyFate::meaningless);
}

TEST(MindFormersImport, interleaved_stages_count_all_their_parts) {
  const Imported imported =
      handbook({"model.model_config.num_layers=8", "model.model_config.pp_interleave_num=2",
                "parallel.pipeline_config.pipeline_interleave=True",
                "model.model_config.offset=[[1, 0], [0, 0]]", "recompute_config.recompute=[[3, 1], [2, 0]]"});
  EXPECT_EQ(imported.recipe.parallel.schedule, "interleaved_1f1b");
  EXPECT_THAT(stage_layers(imported.recipe.model, imported.recipe.parallel), ElementsAre(5, 4));
  EXPECT_THAT(imported.recipe.train.recompute.layers, ElementsAre(5, 1));
}

TEST(MindFormersImport, deepseek_v2s_router) {
  const Imported imported =
      handbook({"model.model_config.type=DeepseekV2Config", "moe_config.use_gating_sigmoid=null",
                "moe_config.norm_topk_prob=False", "moe_config.balance_via_topk_bias=False",
                "moe_config.topk_method=group_limited_greedy", "moe_config.n_group=8",
                "moe_config.topk_group=3", "moe_config.num_experts_chosen=6", "moe_config.use_gmm=False"});
  const ModelConfig& model = imported.recipe.model;
  EXPECT_EQ(model.model_type, "deepseek_v2");
  EXPECT_EQ(model.topk_method, TopkMethod::group_limited_greedy);
  EXPECT_EQ(model.n_group, 8);
  EXPECT_EQ(model.topk_group, 3);
  EXPECT_EQ(imported.recipe.train.balance.bias_update_rate.at(0), 0);
}

TEST(MindFormersImport, a_cool_down_is_deepseek_v3s_schedule) {
  const Imported imported = handbook(
      {"lr_schedule={type: ConstantWithCoolDownLR, learning_rate: 2.e-4, warmup_steps: 100, keep_steps: 400, "
       "decay_steps: 500, lr_end1: 2.e-5, final_steps: 128, lr_end2: 7.e-6, total_steps: -1}"});
  const LrSection& lr = imported.recipe.train.lr;
  EXPECT_EQ(lr.schedule, LrScheduleKind::deepseek_v3);
  EXPECT_EQ(lr.warmup_steps, 100);
  EXPECT_DOUBLE_EQ(lr.hold_until, 500.0 / 1256);
  EXPECT_DOUBLE_EQ(lr.cosine_until, 1000.0 / 1256);
  EXPECT_DOUBLE_EQ(lr.low_until, 1128.0 / 1256);
  EXPECT_EQ(lr.min, 2e-5);
  EXPECT_EQ(lr.final, 7e-6);
}

TEST(MindFormersImport, paths_are_seen_from_the_recipe) {
  const Tree yaml = read_yaml_file(kPretrain);
  const MindFormersImport result = import_mindformers(yaml, "configs/recipes");
  const Recipe recipe = parse_recipe(result.recipe_yaml, fs::current_path() / "configs/recipes/r.yaml", {});
  EXPECT_EQ(recipe.data.train[0].path, fs::current_path() / "dataset");
  EXPECT_EQ(recipe.output_dir, "./output");
}

// Names of MindFormers since `use_legacy: False`, HF's among them, and what they leave out.
TEST(MindFormersImport, newer_names_and_the_hf_directory_below_them) {
  const test::ScratchDirectory scratch;
  fs::copy_file(kSource / "configs/models/tiny.json", scratch / "config.json");
  const std::string yaml =
      "run_mode: train\nuse_legacy: False\nuse_parallel: False\npretrained_model_dir: " +
      scratch.path().string() +
      "\nmodel:\n  model_config:\n    num_hidden_layers: 5\n    params_dtype: float32\n    compute_dtype: "
      "bfloat16\n"
      "    moe_router_load_balancing_type: seq_aux_loss\n    moe_aux_loss_coeff: 0.002\n"
      "    moe_router_enable_expert_bias: True\n    moe_router_bias_update_rate: 0.003\n    seq_length: 64\n"
      "callbacks: [{type: TopkBiasBalanceCallback}]\nrunner_config: {epochs: 1}\n"
      "lr_schedule: {type: ConstantWarmUpLR, learning_rate: 1.e-3, warmup_steps: 0}\n"
      "train_dataset:\n  data_loader: {type: BlendedMegatronDatasetDataLoader, sizes: [80, 0, 0],\n"
      "    config: {seq_length: 64, data_path: [\"1\", \"/d/text\"]}}\n";
  const MindFormersImport result = import_mindformers(parse_yaml(yaml, "x.yaml"), fs::current_path());
  const Recipe recipe = parse_recipe(result.recipe_yaml, "r.yaml", {});
  const ModelConfig tiny = read_model_config(scratch.path());
  EXPECT_EQ(recipe.model.num_hidden_layers, 5);
  EXPECT_EQ(recipe.model.hidden_size, tiny.hidden_size);
  EXPECT_EQ(recipe.model.n_routed_experts, tiny.n_routed_experts);
  EXPECT_EQ(recipe.model.vocab_size, tiny.vocab_size);
  EXPECT_EQ(recipe.train.balance.sequence_aux_loss, 0.002);
  EXPECT_EQ(recipe.train.balance.bias_update_rate.at(0), 0.003);
  EXPECT_EQ(recipe.train.steps, 81);
  const Imported imported{result, recipe};
  EXPECT_THAT(imported.with(KeyEffect::blocks), IsEmpty());
  EXPECT_EQ(imported.key("moe_config.expert_num").note, "from pretrained_model_dir");
}

TEST(MindFormersImport, other_files_are_refused_by_what_they_are) {
  const auto error_of = [](const std::string& yaml) -> std::string {
    try {
      import_mindformers(parse_yaml(yaml, "x.yaml"), ".");
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_THAT(error_of(""), HasSubstr("holds no keys"));
  EXPECT_THAT(error_of("a: 1"), HasSubstr("no model.model_config"));
  EXPECT_THAT(error_of("output_dir: o\ndata: {train: []}\ntrain: {steps: 1}\n"),
              HasSubstr("a recipe of Fathom already"));
  EXPECT_THAT(error_of("model: {model_config: {type: LlamaConfig}}"),
              AllOf(HasSubstr("x.yaml:1: model.model_config.type"), HasSubstr("LlamaConfig")));
  EXPECT_THAT(error_of("run_mode: eval\nmodel: {model_config: {type: DeepseekV3Config}}"),
              HasSubstr("run_mode"));
  EXPECT_THAT(error_of("model: {model_config: {type: DeepseekV3Config, num_layers: many}}"),
              HasSubstr("model.model_config.num_layers: must be a whole number"));
  EXPECT_THAT(error_of("run_mode: train\nmodel: {model_config: {type: DeepseekV3Config, q_lora_rank: {}}}"),
              HasSubstr("q_lora_rank"));
}

TEST(MindFormersImport, absurd_numbers_are_named) {
  const auto error_of = [](const std::string& edit) -> std::string {
    try {
      import_edited(kPretrain, {edit});
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "no error";
  };
  for (const char* key :
       {"parallel_config.pipeline_stage", "parallel_config.data_parallel", "runner_config.batch_size",
        "parallel_config.micro_batch_num", "model.model_config.num_layers"})
    for (const char* value : {"0", "-1", "9000000000000000000"})
      EXPECT_THAT(error_of(fmt::format("{}={}", key, value)), AllOf(HasSubstr(key), HasSubstr("1 .. ")))
          << value;
  EXPECT_THAT(error_of("lr_schedule.warmup_ratio=2"), HasSubstr("0 .. 1"));
  EXPECT_THAT(error_of("runner_config.epochs=1e300"), HasSubstr("steps"));
  EXPECT_THAT(error_of("train_dataset.data_loader.sizes=[9000000000000000000]"), HasSubstr("samples"));
  EXPECT_THAT(error_of("model.model_config.offset=9000000000000000000"), HasSubstr("no number of layers"));
}

// docs/recipe-import.md speaks of every key that a report can hold here.
TEST(MindFormersImport, the_table_of_the_documentation_has_every_key) {
  const std::string doc = read_text_file(kSource / "docs/recipe-import.md");
  for (const fs::path& file : {kPretrain, kPredict})
    for (const ImportedKey& key : import_edited(file, {}).keys) {
      const std::string last = key.key.substr(key.key.rfind('.') + 1);
      EXPECT_NE(doc.find("`" + last + "`"), std::string::npos) << key.key;
    }
}

}  // namespace
}  // namespace fathom::config

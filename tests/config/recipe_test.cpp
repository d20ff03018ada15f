#include "config/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "config/parse_recipe.h"
#include "config/stage_layers.h"
#include "config/supported.h"

namespace fathom::config {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Sets = std::vector<std::string>;

const fs::path kSource = FATHOM_SOURCE_DIR;

// A directory with models/tiny.json and recipes/r.yaml.
class RecipeTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / fmt::format("fathom-recipe-test-{}", ::getpid());
    make_directories(root_ / "models");
    make_directories(root_ / "recipes");
    fs::copy_file(kSource / "configs/models/tiny.json", root_ / "models/tiny.json",
                  fs::copy_options::overwrite_existing);
  }
  void TearDown() override { fs::remove_all(root_); }

  Recipe read(const std::string& yaml, const Sets& sets = {}) {
    write_text_file(root_ / "recipes/r.yaml", yaml);
    return read_recipe(root_ / "recipes/r.yaml", sets);
  }
  std::string error_of(const std::string& yaml, const Sets& sets = {}) {
    try {
      read(yaml, sets);
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "no error";
  }
  std::string error_with(const Sets& sets) { return error_of(kMinimal, sets); }

  const std::string kMinimal =
      "output_dir: out/x\n"
      "model: ../models/tiny.json\n"
      "data:\n"
      "  train: [{path: d/wiki}]\n"
      "train:\n"
      "  steps: 10\n";
  fs::path root_;
};

TEST_F(RecipeTest, the_minimal_recipe_has_the_documented_defaults) {
  const Recipe r = read(kMinimal);
  EXPECT_EQ(r.output_dir, "out/x");  // relative to the working directory
  EXPECT_EQ(r.data.train[0].path, root_ / "recipes/d/wiki");
  EXPECT_EQ(r.model_path, root_ / "models/tiny.json");
  EXPECT_FALSE(r.model_has_weights);
  EXPECT_EQ(r.model.hidden_size, 256);
  EXPECT_EQ(r.seed, 1234U);
  EXPECT_EQ(r.train.steps, 10);
  EXPECT_EQ(r.train.precision, Precision::bf16);
  EXPECT_EQ(r.train.global_batch_size.at(0), 8);
  EXPECT_EQ(r.train.lr.schedule, LrScheduleKind::cosine);
  EXPECT_EQ(r.train.balance.bias_update_rate.at(0), 0.001);
  EXPECT_EQ(r.checkpoint.snapshot_bytes, -1);
}

TEST_F(RecipeTest, the_example_of_the_design_reads) {
  const Recipe r = read(
      "output_dir: out/tiny\nseed: 1234\ndevice: cpu\nmodel: ../models/tiny.json\n"
      "data:\n  kind: pretrain\n  train: [{path: data/wiki_text_document, weight: 1.0}]\n"
      "  valid: [{path: data/wiki_valid_text_document}]\n  seq_length: 512\n  reset_position_ids: false\n"
      "train:\n  steps: 200\n  global_batch_size: 8\n  micro_batch_size: 2\n  precision: bf16\n"
      "  optimizer: {type: adamw, betas: [0.9, 0.95], eps: 1.0e-8, weight_decay: 0.1, state_dtype: fp32}\n"
      "  lr: {schedule: cosine, peak: 2.2e-4, min: 2.2e-5, warmup_steps: 20}\n  clip_grad_norm: 1.0\n"
      "  recompute: none\n  mtp_loss_weight: 0.3\n  balance: {bias_update_rate: 0.001, sequence_aux_loss: "
      "0.0001}\n"
      "  eval_every: 50\n  nan: {action: skip, stop_after: 10}\n  threads: 0\n"
      "parallel: {data: 1, tensor: 1, pipeline: 1, context: 1, expert: 1, expert_tensor: 1, sequence: true, "
      "schedule: 1f1b,\n           layer_offset: [], zero: 1, timeout_s: 600}\n"
      "checkpoint: {every: 100, keep: 3, load: null, load_optimizer: false, optimizer: all}\nlog: {every: "
      "1}\n");
  EXPECT_EQ(r.train.eval_every, 50);
  EXPECT_EQ(r.train.lr.warmup_steps, 20);
  EXPECT_TRUE(r.checkpoint.load.empty());
  refuse_unsupported(r);
}

TEST_F(RecipeTest, unknown_keys_name_path_line_and_the_nearest_key) {
  EXPECT_THAT(
      error_of(kMinimal + "  global_batchsize: 8\n"),
      HasSubstr("r.yaml:7: train.global_batchsize: no such key; did you mean train.global_batch_size?"));
  EXPECT_THAT(error_of(kMinimal + "trian: {steps: 4}\n"), HasSubstr("did you mean train?"));
  EXPECT_THAT(error_of(kMinimal + "  seq_length: 8\n"), HasSubstr("did you mean data.seq_length?"));
  EXPECT_THAT(error_of(kMinimal + "  lr: {peek: 1}\n"),
              HasSubstr("train.lr.peek: no such key; did you mean train.lr.peak?"));
  EXPECT_THAT(error_of(kMinimal + "zzzzzzzzzz: 1\n"), HasSubstr("valid here: output_dir, seed"));
  EXPECT_THAT(error_with({"data.train.0.wieght=2"}),
              HasSubstr("data.train.0.wieght: no such key; did you mean weight?"));
  EXPECT_THAT(error_with({"train.stepz=2"}), HasSubstr("--set train.stepz=2: train.stepz: no such key"));
  EXPECT_THAT(error_with({"model.hiden_size=2"}), HasSubstr("did you mean model.hidden_size?"));
  // A misspelt key is reported as such, not as a missing one.
  EXPECT_THAT(error_of("output_dir: o\nmodle: x\n"),
              HasSubstr("r.yaml:2: modle: no such key; did you mean model?"));
}

TEST_F(RecipeTest, wrong_types_and_ranges_are_named) {
  EXPECT_THAT(error_with({"train.steps=ten"}), HasSubstr("train.steps: must be a whole number, not \"ten\""));
  EXPECT_THAT(error_with({"train.steps=0"}), HasSubstr("train.steps: is 0"));
  EXPECT_THAT(error_with({"train.steps=-5"}), HasSubstr("train.steps: is -5"));
  EXPECT_THAT(error_with({"train.clip_grad_norm=-1"}), HasSubstr("it must be at least 0"));
  EXPECT_THAT(error_with({"train.optimizer.eps=0"}), HasSubstr("it must be above 0"));
  EXPECT_THAT(error_with({"train.optimizer.betas=[0.9]"}), HasSubstr("two numbers"));
  EXPECT_THAT(error_with({"train.optimizer.betas=[0.9, 1]"}), HasSubstr("train.optimizer.betas.1"));
  EXPECT_THAT(error_with({"train.precision=bf61"}), HasSubstr("did you mean bf16?"));
  EXPECT_THAT(error_with({"train.recompute=half"}), HasSubstr("train.recompute"));
  EXPECT_THAT(error_with({"train=5"}), HasSubstr("train: must be a section of keys"));
  EXPECT_THAT(error_with({"data.train=5"}), HasSubstr("data.train: must be a list"));
  EXPECT_THAT(error_with({"data.train=[{weight: 1}]"}), HasSubstr("data.train.0: path is missing"));
  EXPECT_THAT(error_with({"data.train.0.weight=-1"}), HasSubstr("at least 0"));
  EXPECT_THAT(error_with({"data.reset_position_ids=yes"}), HasSubstr("must be true or false"));
  EXPECT_THAT(error_with({"model=[1]"}), HasSubstr("model: must be a path or a section"));
  EXPECT_THAT(error_with({"model=nowhere.json"}), HasSubstr("does not exist"));
  EXPECT_THAT(error_with({"train.steps"}), HasSubstr("write key.path=value"));
  EXPECT_THAT(error_of("[1, 2]\n"), HasSubstr("must hold keys"));
  EXPECT_THAT(error_of(""), HasSubstr("output_dir is missing"));
  EXPECT_THROW(read_recipe(root_ / "no.yaml", {}), FileError);
}

TEST_F(RecipeTest, contradictions_are_refused) {
  EXPECT_THAT(error_of(kMinimal + "  tokens: 100\n"),
              HasSubstr("exactly one of steps, tokens, epochs; 2 are given"));
  EXPECT_THAT(error_with({"train.steps=null"}), HasSubstr("0 are given"));
  EXPECT_THAT(error_of(kMinimal + "  lr: {warmup_steps: 2, warmup_ratio: 0.1}\n"), HasSubstr("warmup_ratio"));
  EXPECT_THAT(error_with({"train.lr.warmup_steps=11"}),
              HasSubstr("warmup_steps is 11, more than train.steps 10"));
  EXPECT_THAT(error_with({"train.lr.decay_steps=11"}), HasSubstr("decay_steps is 11"));
  EXPECT_THAT(error_with({"train.lr.schedule=wsd", "train.lr.warmup_steps=6", "train.lr.decay_steps=6"}),
              HasSubstr("make 12, more than train.steps 10"));
  EXPECT_THAT(error_with({"train.grad_dtype=bf16", "train.precision=fp32"}),
              HasSubstr("train.grad_dtype is bf16, which train.precision fp32 cannot keep"));
  EXPECT_THAT(error_with({"train.lr.min=1"}), HasSubstr("above train.lr.peak"));
  EXPECT_THAT(error_with({"train.lr.schedule=step"}), HasSubstr("step_at is missing"));
  EXPECT_THAT(error_with({"train.lr.schedule=step", "train.lr.step_at=[4, 4]"}), HasSubstr("must ascend"));
  EXPECT_THAT(error_with({"train.lr.step_at=[4]"}), HasSubstr("with schedule: step only"));
  EXPECT_THAT(error_with({"train.lr.wsd_decay=sqrt"}), HasSubstr("with schedule: wsd only"));
  EXPECT_THAT(error_with({"data.seq_length=4097"}),
              HasSubstr("more than model.max_position_embeddings 4096"));
  EXPECT_THAT(error_with({"train.micro_batch_size=3"}), HasSubstr("not a multiple"));
  EXPECT_THAT(error_with({"train.eval_every=5"}), HasSubstr("nothing to evaluate on"));
  EXPECT_THAT(error_with({"data.split=1,2"}), HasSubstr("three weights"));
  EXPECT_THAT(error_with({"data.split=a,b,c"}), HasSubstr("three weights"));
  EXPECT_THAT(error_with({"data.train=[]"}), HasSubstr("no source"));
  EXPECT_THAT(error_with({"checkpoint.load_optimizer=true"}),
              HasSubstr("checkpoint.load names no checkpoint"));
  EXPECT_THAT(error_with({"parallel.layer_offset=[1]"}), HasSubstr("does not sum to 0"));
  EXPECT_THAT(error_with({"train.recompute=[1, 2]"}), HasSubstr("lists 2 stages"));
  EXPECT_THAT(error_of(kMinimal + "  steps: 11\n"),
              HasSubstr("r.yaml:7: train.steps: stands twice (first in line 6)"));
}

TEST_F(RecipeTest, overrides_change_any_key_and_reach_into_the_model) {
  const Recipe r =
      read(kMinimal, {"train.steps=20", "model.hidden_size=512", "data.train.0.path=/abs/other",
                      "model.rope_scaling={type: yarn, factor: 4, original_max_position_embeddings: 1024}",
                      "model.rope_scaling.factor=8", "train.optimizer.weight_decay=0"});
  EXPECT_EQ(r.train.steps, 20);
  EXPECT_EQ(r.model.hidden_size, 512);
  EXPECT_EQ(r.data.train[0].path, "/abs/other");
  EXPECT_EQ(r.model.rope_scaling->factor, 8);
  EXPECT_EQ(r.train.optimizer.weight_decay, 0);
  EXPECT_THAT(error_with({"model.hidden_size=0"}),
              HasSubstr("with --set model.hidden_size=0: hidden_size is 0"));
  EXPECT_THAT(error_with({"model.hidden_size.x=1"}),
              HasSubstr("no place for the key path model.hidden_size.x"));
  // One of three exclusive keys on the command line replaces the file's.
  const Recipe by_tokens = read(kMinimal, {"train.tokens=1e6"});
  EXPECT_EQ(by_tokens.train.steps, 0);
  EXPECT_EQ(by_tokens.train.tokens, 1'000'000);
}

TEST_F(RecipeTest, an_override_path_may_be_relative_to_the_working_directory) {
  const fs::path before = fs::current_path();
  make_directories(root_ / "here/ckpt");
  fs::current_path(root_ / "here");
  const Recipe r = read(kMinimal, {"checkpoint.load=ckpt"});
  fs::current_path(before);
  EXPECT_EQ(fs::weakly_canonical(r.checkpoint.load), fs::weakly_canonical(root_ / "here/ckpt"));
  EXPECT_EQ(read(kMinimal, {"checkpoint.load=ckpt"}).checkpoint.load, root_ / "recipes/ckpt");
}

TEST_F(RecipeTest, the_model_inline_or_a_checkpoint_directory) {
  std::string inline_model = "model:\n";
  const Json tiny = read_json_file(root_ / "models/tiny.json");
  for (const auto& [key, value] : tiny.items()) inline_model += "  " + key + ": " + value.dump() + "\n";
  const std::string rest = "output_dir: o\ndata: {train: [d]}\ntrain: {epochs: 1.5}\n";
  EXPECT_EQ(read(inline_model + rest).model.kv_lora_rank, 64);
  EXPECT_THAT(error_of(inline_model + "  kv_lora_rnk: 3\n" + rest),
              HasSubstr("did you mean model.kv_lora_rank?"));
  EXPECT_THAT(error_of(inline_model + rest, {"model.n_group=3"}), HasSubstr("n_group is 3"));

  make_directories(root_ / "ckpt");
  fs::copy_file(root_ / "models/tiny.json", root_ / "ckpt/config.json");
  EXPECT_FALSE(read("model: ../ckpt\n" + rest).model_has_weights);
  write_text_file(root_ / "ckpt/model.safetensors", "x");
  const Recipe r = read("model: ../ckpt\n" + rest);
  EXPECT_TRUE(r.model_has_weights);
  EXPECT_EQ(r.train.epochs, 1.5);
}

TEST_F(RecipeTest, scheduled_values) {
  const Recipe r = read(
      kMinimal, {"train.global_batch_size=[{until_tokens: 1e3, value: 8}, {value: 16}]",
                 "train.mtp_loss_weight=[{until_tokens: 10, value: 0.3}, {until_tokens: 20, value: 0.1}]"});
  EXPECT_EQ(r.train.global_batch_size.at(999), 8);
  EXPECT_EQ(r.train.global_batch_size.at(1000), 16);
  EXPECT_EQ(r.train.mtp_loss_weight.at(9), 0.3);
  EXPECT_EQ(r.train.mtp_loss_weight.at(1'000'000), 0.1);
  EXPECT_THAT(error_with({"train.global_batch_size=[{value: 8}, {value: 16}]"}),
              HasSubstr("has no until_tokens"));
  EXPECT_THAT(
      error_with({"train.global_batch_size=[{until_tokens: 9, value: 8}, {until_tokens: 9, value: 16}]"}),
      HasSubstr("must ascend"));
  EXPECT_THAT(error_with({"train.global_batch_size=[]"}), HasSubstr("empty list"));
  EXPECT_THAT(error_with({"train.global_batch_size=[{until_tokens: 9}]"}), HasSubstr("value is missing"));
  EXPECT_THAT(error_with({"train.global_batch_size=[{value: 8.5}]"}), HasSubstr("whole number"));
}

TEST_F(RecipeTest, NUM_7_balance_loss_of_the_released_config) {
  const fs::path data = kSource / "tests/config/data";
  const auto loss = [&](const std::string& model, const Sets& extra = {}) {
    Sets sets = {"model=" + (data / model).string()};
    sets.insert(sets.end(), extra.begin(), extra.end());
    return read(kMinimal, sets).train.balance.sequence_aux_loss;
  };
  EXPECT_EQ(loss("deepseek-v3.json"), 1e-4);
  EXPECT_EQ(loss("deepseek-v3.json", {"train.balance.sequence_aux_loss=0"}), 0);
  EXPECT_EQ(loss("deepseek-v3.json", {"model.aux_loss_alpha=0"}), 0);
  EXPECT_EQ(loss("moonlight.json"), 1e-3);
  EXPECT_EQ(loss("moonlight.json", {"train.balance.sequence_aux_loss=0"}), 0);
  // V2 has no selection bias to update.
  EXPECT_EQ(read(kMinimal, {"model=" + (data / "deepseek-v2-lite.json").string()})
                .train.balance.bias_update_rate.at(0),
            0);
  EXPECT_THAT(error_with({"model=" + (data / "deepseek-v2-lite.json").string(),
                          "train.balance.bias_update_rate=0.1"}),
              HasSubstr("no selection bias"));
}

TEST_F(RecipeTest, the_resolved_text_reads_back_as_the_same_recipe) {
  const Recipe r = read(kMinimal, {"train.global_batch_size=[{until_tokens: 1e3, value: 8}, {value: 16}]",
                                   "train.recompute=[2]", "data.train.0.weight=0.25",
                                   "model.num_hidden_layers=3", "train.lr.peak=0.00012345678901234567"});
  const std::string again_yaml = r.resolved_yaml;
  for (const KeyDoc& doc : recipe_keys()) {
    if (doc.path.find('[') != std::string::npos) continue;
    EXPECT_THAT(again_yaml, HasSubstr(doc.path.substr(doc.path.rfind('.') + 1) + ":")) << doc.path;
  }
  const Recipe again = read(again_yaml);
  EXPECT_EQ(again.train.lr.peak, r.train.lr.peak);
  EXPECT_EQ(again.model.num_hidden_layers, 3);
  EXPECT_EQ(again.data.train[0].path, r.data.train[0].path);
  EXPECT_THAT(again.train.recompute.layers, ElementsAre(2));
  const auto body = [](const std::string& yaml) { return yaml.substr(yaml.find("\nmodel:")); };
  EXPECT_EQ(body(again.resolved_yaml), body(again_yaml));
}

TEST_F(RecipeTest, what_is_not_built_yet_is_named) {
  const auto refused = [&](const Sets& sets) -> std::string {
    try {
      refuse_unsupported(read(kMinimal, sets));
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(refused({}), "no error");
  EXPECT_EQ(refused({"parallel.data=2", "parallel.zero=0"}), "no error");
  for (const char* zero : {"parallel.zero=1", "parallel.zero=2"})
    EXPECT_EQ(refused({"parallel.data=2", zero}), "no error");
  for (const char* set : {"parallel.tensor=2", "parallel.pipeline=2"}) EXPECT_EQ(refused({set}), "no error");
  EXPECT_THAT(refused({"parallel.context=2"}), HasSubstr("parallel.context: 2 is not built yet"));
  EXPECT_THAT(refused({"parallel.pipeline=2", "parallel.zero=2"}),
              HasSubstr("parallel.zero: 2 with a pipeline"));
  EXPECT_THAT(refused({"device=cuda"}), HasSubstr("device: cuda is not built yet"));
  EXPECT_THAT(refused({"train.precision=fp8"}), HasSubstr("train.precision: fp8"));
  EXPECT_THAT(refused({"data.kind=sft"}), HasSubstr("data.kind: sft"));
}

TEST(ShippedConfigs, every_recipe_and_model_reads) {
  int recipes = 0, models = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(kSource / "configs/recipes")) {
    SCOPED_TRACE(entry.path().string());
    EXPECT_NO_THROW(read_recipe(entry.path(), {}));
    ++recipes;
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(kSource / "configs/models")) {
    SCOPED_TRACE(entry.path().string());
    EXPECT_NO_THROW(read_model_config(entry.path()));
    ++models;
  }
  EXPECT_GE(recipes, 6);
  EXPECT_GE(models, 9);
}

TEST(ShippedConfigs, shapes_are_what_their_names_say) {
  const auto read = [](const std::string& name) {
    return read_model_config(kSource / "configs/models" / name);
  };
  const ModelConfig full = read("deepseek-v3-671b.json");
  EXPECT_EQ(full.num_hidden_layers, 61);
  EXPECT_EQ(full.initializer_range, 0.006);
  EXPECT_EQ(read("tiny.json").num_nextn_predict_layers, 1);
  EXPECT_FALSE(read("small.json").rope_scaling.has_value());
  EXPECT_EQ(read("4layer.json").hidden_size, 7168);
}

ParallelSection stages(int64_t count, std::vector<int64_t> offset = {}) {
  ParallelSection parallel;
  parallel.pipeline = count;
  parallel.layer_offset = std::move(offset);
  return parallel;
}

// Any number of layers over any number of stages, none lost; stages without a layer are stages too.
TEST(StageLayers, PAR_4_and_5_every_layer_has_one_stage) {
  ModelConfig model;
  model.num_hidden_layers = 6;
  model.num_nextn_predict_layers = 1;
  EXPECT_THAT(stage_layers(model, stages(1)), ElementsAre(7));
  EXPECT_THAT(stage_layers(model, stages(2)), ElementsAre(4, 3));
  EXPECT_THAT(stage_layers(model, stages(3)), ElementsAre(3, 2, 2));
  EXPECT_THAT(stage_layers(model, stages(4)), ElementsAre(2, 2, 2, 1));
  EXPECT_THAT(stage_layers(model, stages(7)), ElementsAre(1, 1, 1, 1, 1, 1, 1));
  EXPECT_THAT(stage_layers(model, stages(9)), ElementsAre(1, 1, 1, 1, 1, 1, 1, 0, 0));
  EXPECT_THAT(stage_layers(model, stages(4, {-2, 1, 0, 1})), ElementsAre(0, 3, 2, 2));
}

TEST_F(RecipeTest, a_stage_may_be_empty_but_not_below) {
  const Sets split = {"parallel.pipeline=2", "model.num_hidden_layers=3", "model.num_nextn_predict_layers=1"};
  const auto with = [&](const std::string& set) {
    Sets sets = split;
    sets.push_back(set);
    return error_with(sets);
  };
  EXPECT_EQ(with("parallel.layer_offset=[-2, 2]"), "no error");
  EXPECT_THAT(with("parallel.layer_offset=[-3, 3]"), HasSubstr("takes 3 layers from stage 0, which has 2"));
  EXPECT_EQ(with("train.recompute=[2, 0]"), "no error");
  EXPECT_THAT(with("train.recompute=[1, 3]"), HasSubstr("recomputes 3 layers of stage 1, which holds 2"));
}

TEST_F(RecipeTest, one_for_inference_needs_neither_data_nor_a_length) {
  const std::string text = "output_dir: out\nmodel: ../models/tiny.json\nparallel: {tensor: 2}\n";
  const Recipe recipe = parse_recipe(text, root_ / "recipes/r.yaml", {}, RecipeUse::inference);
  EXPECT_EQ(recipe.parallel.tensor, 2);
  EXPECT_THAT(error_of(text), HasSubstr("data.train is missing"));
}

}  // namespace
}  // namespace fathom::config

// fathom pretrain: what a run writes, and what it says when it is run again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "e2e/tiny_run.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using test::Sets;
using test::TinyRun;
using testing::HasSubstr;
using testing::IsEmpty;

double mean_loss(const std::vector<Json>& metrics, size_t first, size_t count) {
  double sum = 0;
  for (size_t i = first; i < first + count; ++i) sum += metrics[i].at("loss").get<double>();
  return sum / static_cast<double>(count);
}

class Pretrain : public testing::Test {
 protected:
  // One run for all tests of the suite; none of them changes it for the others.
  static void SetUpTestSuite() {
    run_ = new TinyRun;
    end_ = new test::ProcessEnd(run_->pretrain());
  }
  static void TearDownTestSuite() {
    delete run_;
    delete end_;
  }
  static TinyRun* run_;
  static test::ProcessEnd* end_;
};
TinyRun* Pretrain::run_ = nullptr;
test::ProcessEnd* Pretrain::end_ = nullptr;

TEST_F(Pretrain, ends_well_and_the_losses_fall) {
  ASSERT_EQ(end_->exit_code, 0) << end_->err;
  EXPECT_THAT(end_->err, HasSubstr("finished at step 30"));
  EXPECT_EQ(end_->out, "");
  const std::vector<Json> metrics = test::metrics_of(run_->output());
  ASSERT_EQ(metrics.size(), 30U);
  EXPECT_NEAR(metrics[0].at("loss").get<double>(), std::log(test::kTinyVocab), 0.3);  // knows nothing yet
  EXPECT_LT(mean_loss(metrics, 25, 5), mean_loss(metrics, 0, 5) - 0.5);
  EXPECT_LT(metrics[29].at("mtp_loss").get<double>(), metrics[0].at("mtp_loss").get<double>() - 0.3);
  EXPECT_LT(metrics[29].at("eval_loss").get<double>(), metrics[9].at("eval_loss").get<double>());
}

TEST_F(Pretrain, metrics_have_exactly_the_keys_of_the_contract) {
  const std::set<std::string> always = {"step",          "loss",    "mtp_loss", "balance_loss",
                                        "grad_norm",     "lr",      "tokens",   "tokens_per_second",
                                        "max_violation", "skipped", "seconds"};
  const std::vector<Json> metrics = test::metrics_of(run_->output());
  ASSERT_EQ(metrics.size(), 30U);
  for (size_t i = 0; i < metrics.size(); ++i) {
    std::set<std::string> keys, expected = always;
    for (const auto& [key, value] : metrics[i].items()) {
      keys.insert(key);
      EXPECT_TRUE(value.is_number()) << key << " at line " << i + 1;
    }
    if ((i + 1) % 10 == 0) expected.insert({"eval_loss", "eval_perplexity"});
    EXPECT_EQ(keys, expected) << "line " << i + 1;
    EXPECT_EQ(metrics[i].at("step"), i + 1);
    EXPECT_EQ(metrics[i].at("tokens"), 6 * 32);
    EXPECT_EQ(metrics[i].at("skipped"), 0);
    EXPECT_GT(metrics[i].at("grad_norm").get<double>(), 0);
    EXPECT_GE(metrics[i].at("max_violation").get<double>(), 0);
    EXPECT_GT(metrics[i].at("balance_loss").get<double>(), 0);
    EXPECT_GT(metrics[i].at("seconds").get<double>(), 0);
  }
  EXPECT_EQ(metrics[3].at("lr"), 1.0e-2);  // the end of the warm-up
}

TEST_F(Pretrain, writes_report_events_log_and_the_resolved_recipe) {
  const fs::path out = run_->output();
  EXPECT_THAT(test::text_of(out / "report.html"), HasSubstr("<html"));
  EXPECT_THAT(test::text_of(out / "logs/rank_0.log"), HasSubstr("finished at step 30"));
  EXPECT_THAT(test::text_of(out / "recipe.yaml"), HasSubstr("global_batch_size: 6"));
  int event_files = 0;
  for (const auto& item : fs::directory_iterator(out / "tensorboard"))
    event_files +=
        item.path().filename().string().starts_with("events.out.tfevents.") && item.file_size() > 1000;
  EXPECT_EQ(event_files, 1);
  EXPECT_FALSE(test::lines_of(test::text_of(out / "expert_load.jsonl")).empty());
  for (const auto& item : fs::recursive_directory_iterator(out))
    EXPECT_THAT(item.path().filename().string(), testing::Not(HasSubstr("tmp"))) << item.path();
}

// NUM-7: the values in force are said at the start.
TEST_F(Pretrain, NUM_7_the_balance_in_force_is_printed) {
  EXPECT_THAT(end_->err, HasSubstr("sequence_aux_loss 0.0001"));
  EXPECT_THAT(end_->err, HasSubstr("bias_update_rate 0.001"));
}

TEST_F(Pretrain, keeps_the_last_three_checkpoints_each_an_hf_directory) {
  std::set<std::string> names;
  for (const auto& item : fs::directory_iterator(run_->output() / "checkpoints"))
    if (item.is_directory()) names.insert(item.path().filename().string());
  EXPECT_EQ(names, (std::set<std::string>{"step_00000024", "step_00000028", "step_00000030"}));
  EXPECT_EQ(test::text_of(run_->output() / "checkpoints/latest"), "step_00000030\n");
  const fs::path last = run_->checkpoint(30);
  for (const char* name :
       {"config.json", "generation_config.json", "model.safetensors", "train_state/state.json"})
    EXPECT_TRUE(fs::exists(last / name)) << name;
  EXPECT_EQ(read_json_file(last / "config.json").at("model_type"), "deepseek_v3");
  const test::ProcessEnd end = run_->fathom({"inspect", last.string(), "--json"});
  ASSERT_EQ(end.exit_code, 0) << end.err;
  bool has_mtp = false;
  const Json inspected = Json::parse(end.out);
  for (const Json& tensor : inspected.at("tensors")) {
    has_mtp |= tensor.at("name") == "model.layers.2.eh_proj.weight";
    if (tensor.at("name") == "model.layers.1.mlp.gate.e_score_correction_bias") {
      EXPECT_EQ(tensor.at("dtype"), "F32");
    }
  }
  EXPECT_TRUE(has_mtp);
}

TEST_F(Pretrain, run_again_after_the_end_says_so_and_changes_nothing) {
  const auto files = [this] {
    std::map<std::string, std::string> files;
    for (const auto& item : fs::recursive_directory_iterator(run_->output()))
      if (item.is_regular_file() && item.path().filename() != "rank_0.log")
        files[item.path().string()] = test::text_of(item.path());
    return files;
  };
  const auto before = files();
  const test::ProcessEnd end = run_->pretrain();
  EXPECT_EQ(end.exit_code, 0);
  EXPECT_THAT(end.err, HasSubstr("the run is finished: 30 steps are done"));
  EXPECT_TRUE(before == files());
}

// Design §1.7: the saved function is the trained function.
TEST_F(Pretrain, eval_of_the_checkpoint_is_the_trainers_evaluation) {
  const test::ProcessEnd end = run_->fathom(
      {"eval", run_->checkpoint(30).string(), "--data", "valid", "--seq-length", "32", "--json"});
  ASSERT_EQ(end.exit_code, 0) << end.err;
  const double expected = test::metrics_of(run_->output()).at(29).at("eval_loss");
  EXPECT_NEAR(Json::parse(end.out).at("nll").get<double>(), expected, 1e-6 * expected);
}

TEST_F(Pretrain, generate_continues_from_the_checkpoint) {
  const auto generate = [this](const std::string& ids) {
    return run_->fathom({"generate", run_->checkpoint(30).string(), "--prompt-ids", ids, "--max-new-tokens",
                         "5", "--temperature", "0", "--ignore-eos", "--json"});
  };
  const test::ProcessEnd first = generate("5,30,3"), again = generate("5,30,3");
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const Json answer = Json::parse(first.out);
  EXPECT_EQ(answer.at("prompt_ids"), Json({5, 30, 3}));
  ASSERT_EQ(answer.at("token_ids").size(), 5U);
  for (const Json& id : answer.at("token_ids")) EXPECT_LT(id.get<int>(), test::kTinyVocab);
  EXPECT_EQ(first.out, again.out);
}

TEST(PretrainSets, precision_bf16_evaluates_as_the_checkpoint_does) {
  const TinyRun run;
  for (const char* precision : {"bf16", "bf16_pure"}) {
    const test::ProcessEnd end =
        run.pretrain({fmt::format("train.precision={}", precision), "train.steps=8", "train.eval_every=8",
                      fmt::format("output_dir={}", precision)});
    ASSERT_EQ(end.exit_code, 0) << end.err;
    const double expected = test::metrics_of(run.output(precision)).at(7).at("eval_loss");
    const test::ProcessEnd eval = run.fathom(
        {"eval", run.checkpoint(8, precision).string(), "--data", "valid", "--seq-length", "32", "--json"});
    ASSERT_EQ(eval.exit_code, 0) << eval.err;
    EXPECT_NEAR(Json::parse(eval.out).at("nll").get<double>(), expected, 1e-6 * expected) << precision;
  }
}

// Recompute, documents, scheduled sizes: each runs and reports the same or finite numbers.
TEST(PretrainSets, recompute_changes_no_number) {
  const TinyRun run;
  std::vector<std::string> first;
  for (const char* recompute : {"none", "full", "selective", "[1]"}) {
    const std::string out = fmt::format("out_{}", recompute[0]);
    const test::ProcessEnd end =
        run.pretrain({fmt::format("train.recompute={}", recompute), "train.steps=4", "output_dir=" + out});
    ASSERT_EQ(end.exit_code, 0) << end.err;
    if (first.empty()) first = test::numbers_of(run.output(out));
    EXPECT_EQ(test::numbers_of(run.output(out)), first) << recompute;
  }
}

// Windows of these data hold several documents: each option changes what is learnt from them.
TEST(PretrainSets, MF_10_every_data_option_reaches_the_loss) {
  const TinyRun run;
  std::set<std::string> losses;
  for (const char* option :
       {"", "data.eod_mask_loss=true", "data.reset_position_ids=true", "data.reset_attention_mask=true"}) {
    Sets sets = {"train.steps=4", "train.eval_every=0"};
    if (*option) sets.emplace_back(option);
    sets.push_back("output_dir=out" + std::to_string(losses.size()));
    const std::string output = sets.back().substr(std::string("output_dir=").size());
    ASSERT_TRUE(test::ends_well(run.pretrain(sets)));
    losses.insert(test::metrics_of(run.output(output)).at(0).at("loss").dump());
  }
  EXPECT_EQ(losses.size(), 4U);
}

TEST(PretrainSets, documents_and_scheduled_batch_size) {
  const TinyRun run;
  const test::ProcessEnd end =
      run.pretrain({"data.reset_position_ids=true", "data.reset_attention_mask=true",
                    "data.eod_mask_loss=true", "train.steps=4", "train.eval_every=0",
                    "train.global_batch_size=[{until_tokens: 128, value: 2}, {value: 4}]"});
  ASSERT_EQ(end.exit_code, 0) << end.err;
  std::vector<int> tokens;
  for (const Json& metrics : test::metrics_of(run.output())) {
    tokens.push_back(metrics.at("tokens"));
    EXPECT_TRUE(std::isfinite(metrics.at("loss").get<double>()));
    EXPECT_TRUE(std::isfinite(metrics.at("mtp_loss").get<double>()));
  }
  EXPECT_EQ(tokens, (std::vector<int>{64, 64, 128, 128}));
}

}  // namespace
}  // namespace fathom

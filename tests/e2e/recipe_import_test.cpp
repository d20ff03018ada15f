// fathom recipe import as a user runs it: what goes where, which exit code, and that training takes the result.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "e2e/tiny_run.h"

namespace fathom {
namespace {

using test::ProcessEnd;
using test::TinyRun;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const std::filesystem::path kData = std::filesystem::path(FATHOM_SOURCE_DIR) / "tests/config/data";

class RecipeImport : public testing::Test {
 protected:
  RecipeImport() {
    write_text_file(run_.directory() / "x.yaml", read_text_file(kData / "mindformers_671b.yaml"));
  }
  ProcessEnd import(const std::vector<std::string>& flags) {
    std::vector<std::string> words = {"recipe", "import", "x.yaml"};
    words.insert(words.end(), flags.begin(), flags.end());
    return run_.fathom(words);
  }
  void replace(const std::string& from, const std::string& to) {
    std::string text = read_text_file(run_.directory() / "x.yaml");
    ASSERT_NE(text.find(from), std::string::npos) << from;
    text.replace(text.find(from), from.size(), to);
    write_text_file(run_.directory() / "x.yaml", text);
  }
  const TinyRun run_;
};

TEST_F(RecipeImport, the_recipe_goes_to_stdout_and_the_report_to_stderr) {
  const ProcessEnd end = import({});
  EXPECT_EQ(end.exit_code, 0) << end.err;
  EXPECT_THAT(end.out, AllOf(HasSubstr("num_hidden_layers: 61"), Not(HasSubstr("meaningless here ("))));
  EXPECT_THAT(end.err, AllOf(HasSubstr("meaningless here ("), HasSubstr("0 unsupported")));
}

TEST_F(RecipeImport, with_an_output_the_report_goes_to_stdout) {
  const ProcessEnd end = import({"--output", "r.yaml"});
  EXPECT_EQ(end.exit_code, 0) << end.err;
  EXPECT_THAT(end.out, HasSubstr("mapped ("));
  EXPECT_THAT(read_text_file(run_.directory() / "r.yaml"), HasSubstr("pipeline: 16"));
}

TEST_F(RecipeImport, json_alone_stands_on_stdout) {
  const ProcessEnd end = import({"--json"});
  EXPECT_EQ(end.exit_code, 0) << end.err;
  const Json report = parse_json(end.out, "stdout");
  EXPECT_GT(report["keys"].size(), 100U);
  EXPECT_THAT(report["recipe"].get<std::string>(), HasSubstr("num_hidden_layers: 61"));
}

TEST_F(RecipeImport, what_has_no_counterpart_stops_it_unless_allowed) {
  replace("optimizer: {type: AdamW", "optimizer: {type: Came");
  const ProcessEnd end = import({"--output", "r.yaml"});
  EXPECT_EQ(end.exit_code, 1);
  EXPECT_THAT(end.err, AllOf(HasSubstr("optimizer.type"), HasSubstr("--allow-unsupported")));
  EXPECT_FALSE(std::filesystem::exists(run_.directory() / "r.yaml"));
  const ProcessEnd allowed = import({"--output", "r.yaml", "--allow-unsupported"});
  EXPECT_EQ(allowed.exit_code, 0) << allowed.err;
  EXPECT_THAT(allowed.err, HasSubstr("imported without: optimizer.type"));
  EXPECT_TRUE(std::filesystem::exists(run_.directory() / "r.yaml"));
}

TEST_F(RecipeImport, wrong_files_are_one_line) {
  EXPECT_THAT(run_.fathom({"recipe", "import", "none.yaml"}).err, HasSubstr("none.yaml"));
  const ProcessEnd recipe = run_.fathom({"recipe", "import", "run.yaml"});
  EXPECT_EQ(recipe.exit_code, 1);
  EXPECT_THAT(recipe.err, HasSubstr("a recipe of Fathom already"));
  EXPECT_EQ(run_.fathom({"recipe"}).exit_code, 2);
}

// One device, widths scaled down: the imported recipe trains.
TEST_F(RecipeImport, what_is_imported_trains) {
  replace("use_parallel: True", "use_parallel: False");
  replace("offset: [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1]", "offset: 0");
  replace("recompute: [3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 3, 2, 0]", "recompute: False");
  replace("\"./dataset\"", "\"train\"");
  ASSERT_TRUE(test::ends_well(import({"--output", "sub.yaml"})));
  std::vector<std::string> words = {"pretrain", "sub.yaml"};
  for (const char* set :
       {"model.num_hidden_layers=2", "model.first_k_dense_replace=1", "model.hidden_size=32",
        "model.intermediate_size=48", "model.moe_intermediate_size=16", "model.num_attention_heads=2",
        "model.q_lora_rank=16", "model.kv_lora_rank=8", "model.qk_nope_head_dim=8",
        "model.qk_rope_head_dim=4", "model.v_head_dim=8", "model.n_routed_experts=8",
        "model.num_experts_per_tok=2", "model.vocab_size=64", "data.seq_length=32", "train.steps=3",
        "train.lr.warmup_steps=0", "output_dir=imported", "train.threads=2"})
    words.insert(words.end(), {"--set", set});
  EXPECT_TRUE(test::ends_well(run_.fathom(words)));
  EXPECT_EQ(test::lines_of(read_text_file(run_.output("imported") / "metrics.jsonl")).size(), 3U);
}

}  // namespace
}  // namespace fathom

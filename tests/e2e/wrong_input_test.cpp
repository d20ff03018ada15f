// What a person gets wrong: each mistake is one clear line on stderr and the right exit code, before anything
// is written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "e2e/tiny_run.h"

namespace fathom {
namespace {

using test::Sets;
using test::TinyRun;
using testing::AllOf;
using testing::HasSubstr;

class WrongInput : public testing::Test {
 protected:
  // The message, which must be the only one of its kind.
  std::string error_of(const test::ProcessEnd& end, int exit_code = 1) {
    EXPECT_EQ(end.exit_code, exit_code) << end.err;
    EXPECT_EQ(end.out, "");
    std::string found;
    int errors = 0;
    for (const std::string& line : test::lines_of(end.err)) {
      if (line.find("error: ") == std::string::npos) continue;
      found = line;
      ++errors;
    }
    EXPECT_EQ(errors, 1) << end.err;
    EXPECT_EQ(end.err.find("terminate"), std::string::npos) << end.err;
    EXPECT_FALSE(std::filesystem::exists(run_.output() / "checkpoints/latest"));
    return found;
  }
  void append(const std::string& text) {
    std::ofstream file(run_.directory() / "run.yaml", std::ios::app);
    file << text;
  }
  const TinyRun run_;
};

TEST_F(WrongInput, an_unknown_key_names_path_line_and_the_nearest) {
  append("log: {evry: 3}\n");
  EXPECT_THAT(error_of(run_.pretrain()),
              AllOf(HasSubstr("run.yaml"), HasSubstr(":17:"), HasSubstr("log.evry"), HasSubstr("every")));
}

TEST_F(WrongInput, an_unknown_override_names_the_nearest) {
  EXPECT_THAT(error_of(run_.pretrain({"train.precison=fp32"})),
              AllOf(HasSubstr("train.precison"), HasSubstr("precision")));
}

TEST_F(WrongInput, missing_files_are_named) {
  EXPECT_THAT(error_of(run_.fathom({"pretrain", "no.yaml"})), HasSubstr("no.yaml"));
  EXPECT_THAT(error_of(run_.pretrain({"data.train=[{path: nothing}]"})), HasSubstr("nothing"));
  EXPECT_THAT(error_of(run_.pretrain({"data.valid=[{path: nothing}]"})), HasSubstr("nothing"));
  EXPECT_THAT(error_of(run_.pretrain({"model=nothing.json"})), HasSubstr("nothing.json"));
  EXPECT_THAT(error_of(run_.pretrain({"checkpoint.load=nothing"})), HasSubstr("nothing"));
}

TEST_F(WrongInput, an_id_outside_the_vocabulary_is_named_with_its_file) {
  test::write_tokens(run_.directory() / "wide", 200, 3, 100);
  EXPECT_THAT(error_of(run_.pretrain({"data.train=[{path: wide}]"})),
              AllOf(HasSubstr("wide"), HasSubstr("64")));
}

TEST_F(WrongInput, windows_longer_than_the_data_or_the_model) {
  EXPECT_THAT(error_of(run_.pretrain({"data.seq_length=100000", "model.max_position_embeddings=200000"})),
              HasSubstr("100000"));
  // Training repeats what there is; an evaluation takes each window once.
  test::write_tokens(run_.directory() / "short", 1, 3);
  EXPECT_THAT(error_of(run_.pretrain({"data.seq_length=128", "data.valid=[{path: short}]"})),
              AllOf(HasSubstr("short"), HasSubstr("128")));
}

TEST_F(WrongInput, a_cut_dataset_is_refused) {
  const std::filesystem::path bin = run_.directory() / "train.bin";
  std::filesystem::resize_file(bin, std::filesystem::file_size(bin) - 100);
  EXPECT_THAT(error_of(run_.pretrain()), HasSubstr("train.bin"));
}

TEST_F(WrongInput, a_checkpoint_of_another_shape_names_both_values) {
  ASSERT_TRUE(test::ends_well(
      run_.pretrain({"train.steps=1", "output_dir=first", "train.eval_every=0", "train.lr.warmup_steps=0"})));
  EXPECT_THAT(
      error_of(run_.pretrain({"model.hidden_size=40", "checkpoint.load=first/checkpoints/step_00000001"})),
      AllOf(HasSubstr("32"), HasSubstr("40")));
}

TEST_F(WrongInput, wrong_usage_is_2) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{},
                                             {"pretrian", "run.yaml"},
                                             {"pretrain"},
                                             {"pretrain", "run.yaml", "--sett", "a=b"},
                                             {"generate"},
                                             {"eval", "DIR"}}) {
    const test::ProcessEnd end = run_.fathom(arguments);
    EXPECT_EQ(end.exit_code, 2) << end.err;
    EXPECT_THAT(end.err, HasSubstr("error: "));
    EXPECT_EQ(end.out, "");
  }
}

TEST_F(WrongInput, help_is_on_stdout_and_0) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"--help"}, {"pretrain", "--help"}, {"eval", "--help"}, {"--version"}}) {
    const test::ProcessEnd end = run_.fathom(arguments);
    EXPECT_EQ(end.exit_code, 0);
    EXPECT_EQ(end.err, "");
    EXPECT_NE(end.out, "");
  }
}

}  // namespace
}  // namespace fathom

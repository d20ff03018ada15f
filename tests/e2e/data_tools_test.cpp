// fathom data merge, validate, inspect and index as a user runs them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "e2e/tiny_run.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using test::ProcessEnd;
using testing::HasSubstr;

std::set<fs::path> files_below(const fs::path& directory) {
  std::set<fs::path> files;
  if (fs::exists(directory))
    for (const auto& item : fs::recursive_directory_iterator(directory)) files.insert(item.path());
  return files;
}

TEST(DataTools, merged_data_are_valid_and_a_bad_token_is_named) {
  const test::TinyRun run;
  ASSERT_TRUE(ends_well(run.fathom({"data", "merge", "train", "valid.idx", "--output-prefix", "made/all"})));
  EXPECT_EQ(test::text_of(run.directory() / "made/all.bin"),
            test::text_of(run.directory() / "train.bin") + test::text_of(run.directory() / "valid.bin"));
  const ProcessEnd good = run.fathom({"data", "validate", "made/all", "--vocab-size", "64", "--json"});
  ASSERT_TRUE(ends_well(good));
  const Json report = Json::parse(good.out);
  EXPECT_EQ(report.at("documents"), 208);
  EXPECT_LT(report.at("largest_id"), 64);

  std::string bin = test::text_of(run.directory() / "made/all.bin");
  bin[101] = 1;  // token 50 becomes 256 and more
  write_text_file(run.directory() / "made/all.bin", bin);
  const ProcessEnd bad = run.fathom({"data", "validate", "made/all", "--vocab-size", "64"});
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_THAT(bad.err, HasSubstr("(byte 100): id "));
  EXPECT_EQ(bad.out, "");
  const ProcessEnd own = run.fathom({"data", "merge", "train", "--output-prefix", "train"});
  EXPECT_EQ(own.exit_code, 2);
  EXPECT_THAT(own.err, HasSubstr("it is one of the inputs"));
}

TEST(DataTools, DATA_8_MF_30_a_recipe_is_inspected_without_writing_and_indexed_ahead_of_the_run) {
  const test::TinyRun run;
  const std::vector<std::string> look = {
      "data", "inspect", "run.yaml", "--sample", "3", "--set", "data.train.0.weight=2", "--json"};
  const ProcessEnd before = run.fathom(look);
  ASSERT_TRUE(ends_well(before));
  EXPECT_EQ(files_below(run.output()), std::set<fs::path>()) << "looking writes nothing";
  const Json sample = Json::parse(before.out).at("sample");
  EXPECT_EQ(sample.at("ids").size(), 33u);
  EXPECT_EQ(sample.at("loss_mask").size(), 32u);
  int64_t tokens = 0;
  for (const Json& piece : sample.at("pieces")) tokens += piece.at("tokens").get<int64_t>();
  EXPECT_EQ(tokens, 33);

  const ProcessEnd first = run.fathom({"data", "index", "run.yaml", "--json"});
  ASSERT_TRUE(ends_well(first));
  EXPECT_EQ(Json::parse(first.out).at("parts").size(), 2u) << "training and held-out data";
  const auto cached = files_below(run.output() / "cache");
  EXPECT_EQ(cached.size(), 2u);
  ASSERT_TRUE(ends_well(run.pretrain({"train.steps=30", "train.eval_every=30"})));
  EXPECT_EQ(files_below(run.output() / "cache"), cached) << "DATA-8: the run maps what was there";
  const ProcessEnd after = run.fathom(look);
  ASSERT_TRUE(ends_well(after));
  EXPECT_EQ(Json::parse(after.out).at("sample"), sample);
  const ProcessEnd beyond = run.fathom({"data", "inspect", "run.yaml", "--sample", "999999"});
  EXPECT_EQ(beyond.exit_code, 2);
  EXPECT_THAT(beyond.err, HasSubstr("samples, counted from 0"));
}

}  // namespace
}  // namespace fathom

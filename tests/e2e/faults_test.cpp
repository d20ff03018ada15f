// What goes wrong around a run: damaged checkpoints, disks, directories, numbers. Each time: a clear message,
// the right exit code, and the last good checkpoint as it was.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <cmath>
#include <fstream>

#include "e2e/tiny_run.h"
#include "formats/safetensors.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using test::Sets;
using test::TinyRun;
using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;

const Sets kEight = {"train.steps=8", "train.eval_every=0"};  // checkpoints at 4 and 8

void flip_byte(const fs::path& path, int64_t place) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(place);
  const char byte = static_cast<char>(file.get() ^ 0x40);
  file.seekp(place);
  file.put(byte);
}

class DamagedCheckpoint : public testing::Test {
 protected:
  DamagedCheckpoint() { EXPECT_TRUE(test::ends_well(run_.pretrain(kEight))); }

  // Goes on from step 4, says why, and makes step 8 again with the bits of a run without damage.
  void expect_fall_back(const std::string& named) {
    const test::ProcessEnd end = run_.pretrain(kEight);
    ASSERT_EQ(end.exit_code, 0) << end.err;
    EXPECT_THAT(end.err, AllOf(HasSubstr("warning"), HasSubstr("step_00000008"), HasSubstr(named)));
    EXPECT_THAT(end.err, HasSubstr("(step 4 of 8)"));
    Sets whole = kEight;
    whole.push_back("output_dir=whole");
    ASSERT_TRUE(test::ends_well(run_.pretrain(whole)));
    EXPECT_EQ(test::numbers_of(run_.output()), test::numbers_of(run_.output("whole")));
    EXPECT_TRUE(test::tensor_files_of(run_.checkpoint(8)) ==
                test::tensor_files_of(run_.checkpoint(8, "whole")));
  }
  const TinyRun run_;
};

TEST_F(DamagedCheckpoint, truncated) {
  const fs::path file = run_.checkpoint(8) / "model.safetensors";
  fs::resize_file(file, fs::file_size(file) / 2);
  expect_fall_back("model.safetensors");
}

TEST_F(DamagedCheckpoint, flipped_byte_of_the_optimizer_state) {
  const fs::path file = run_.checkpoint(8) / "train_state/rank_00000_00001.safetensors";
  flip_byte(file, static_cast<int64_t>(fs::file_size(file)) - 9);
  expect_fall_back("rank_00000_00001.safetensors");
}

TEST_F(DamagedCheckpoint, none_is_good_is_an_error_not_a_new_start) {
  for (const int64_t step : {4, 8}) fs::remove(run_.checkpoint(step) / "model.safetensors");
  const test::ProcessEnd end = run_.pretrain(kEight);
  EXPECT_EQ(end.exit_code, 1);
  EXPECT_THAT(end.err, HasSubstr("model.safetensors"));
  EXPECT_EQ(test::metrics_of(run_.output()).size(), 8U);
}

// NUM-10: an Inf in a weight is named, with its step.
TEST_F(DamagedCheckpoint, NUM_10_an_infinite_weight_is_named) {
  const fs::path weights = run_.checkpoint(8) / "model.safetensors";
  const std::string tensor = "model.layers.1.self_attn.o_proj.weight";
  const uint64_t place = formats::SafetensorsFile(weights).at(tensor).offset;
  std::fstream file(weights, std::ios::in | std::ios::out | std::ios::binary);
  const float infinity = INFINITY;
  file.seekp(static_cast<std::streamoff>(place + 8))
      .write(reinterpret_cast<const char*>(&infinity), sizeof infinity);
  file.close();
  const test::ProcessEnd end =
      run_.pretrain({"checkpoint.load=" + run_.checkpoint(8).string(), "output_dir=other",
                     "train.eval_every=0", "train.nan.stop_after=2"});
  EXPECT_EQ(end.exit_code, 1) << end.err;
  EXPECT_THAT(end.err, AllOf(HasSubstr("warning: step 1: skipped"),
                             HasSubstr("error: step 2: 2 steps in a row"), HasSubstr("weight " + tensor)));
}

TEST(BadPlace, a_read_only_output_directory) {
  const TinyRun run;
  fs::create_directory(run.output());
  fs::permissions(run.output(), fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read |
                                    fs::perms::others_exec);
  fs::permissions(run.directory(), fs::perms::all);
  const bool is_root = ::geteuid() == 0;
  const test::ProcessEnd end =
      run.pretrain(kEight, is_root ? std::function<bool()>(test::become_nobody) : nullptr);
  if (end.exit_code == 125) GTEST_SKIP() << "cannot become another user";
  if (end.exit_code == 127) GTEST_SKIP() << "another user cannot reach the program";
  EXPECT_EQ(end.exit_code, 1) << end.err;
  EXPECT_THAT(end.err, AllOf(HasSubstr("error"), HasSubstr("out"), HasSubstr("Permission denied")));
  EXPECT_LE(test::lines_of(end.err).size(), 2U) << end.err;
  EXPECT_TRUE(fs::is_empty(run.output()));
}

TEST(BadPlace, an_output_directory_that_is_a_file) {
  const TinyRun run;
  write_text_file(run.output(), "not a directory");
  const test::ProcessEnd end = run.pretrain(kEight);
  EXPECT_EQ(end.exit_code, 1);
  EXPECT_THAT(end.err, AllOf(HasSubstr("error"), HasSubstr("out")));
  EXPECT_EQ(test::text_of(run.output()), "not a directory");
}

// A disk that takes no more in the middle of a save: the save fails, the earlier checkpoint stays.
TEST(FullDisk, the_last_good_checkpoint_stays_and_the_run_goes_on_once_there_is_room) {
  const TinyRun run;
  Sets four = {"train.steps=4", "train.eval_every=0"};
  ASSERT_TRUE(test::ends_well(run.pretrain(four)));
  const auto before = test::tensor_files_of(run.checkpoint(4));
  // No file may grow over what a checkpoint's own need: the next save dies in the middle.
  const auto limit = [&] {
    const rlimit bytes{20'000, 20'000};
    ::signal(SIGXFSZ, SIG_IGN);
    return ::setrlimit(RLIMIT_FSIZE, &bytes) == 0;
  };
  const test::ProcessEnd end = run.pretrain({"train.steps=6", "train.eval_every=0"}, limit);
  EXPECT_EQ(end.exit_code, 1) << end.err;
  EXPECT_THAT(end.err, AllOf(HasSubstr("error"), HasSubstr("step 6"),
                             AnyOf(HasSubstr("File too large"), HasSubstr("No space"))));
  EXPECT_TRUE(test::tensor_files_of(run.checkpoint(4)) == before);
  EXPECT_FALSE(fs::exists(run.checkpoint(6)));
  const test::ProcessEnd rest = run.pretrain({"train.steps=6", "train.eval_every=0"});
  ASSERT_EQ(rest.exit_code, 0) << rest.err;
  EXPECT_THAT(rest.err, HasSubstr("(step 4 of 6)"));
  EXPECT_TRUE(fs::exists(run.checkpoint(6) / "model.safetensors"));
}

class SmallDisk : public testing::Test {
 protected:
  bool mount(const char* size) {
    fs::create_directory(run_.output());
    return mounted_ = ::mount("tmpfs", run_.output().c_str(), "tmpfs", 0, size) == 0;
  }
  void TearDown() override {
    if (mounted_) ::umount2(run_.output().c_str(), MNT_DETACH);
  }
  const TinyRun run_;
  bool mounted_ = false;
};

TEST_F(SmallDisk, too_small_is_known_before_the_first_step) {
  if (!mount("size=24m")) GTEST_SKIP() << "no file system can be mounted here";
  const test::ProcessEnd end = run_.pretrain({"model.vocab_size=20000", "model.hidden_size=64"});
  EXPECT_EQ(end.exit_code, 1);
  EXPECT_THAT(end.err, AllOf(HasSubstr("too little disk"), HasSubstr("checkpoint.keep")));
  EXPECT_EQ(test::lines_of(test::text_of(run_.output() / "metrics.jsonl")).size(), 0U);
}

TEST_F(SmallDisk, filled_by_others_between_two_starts) {
  if (!mount("size=64m")) GTEST_SKIP() << "no file system can be mounted here";
  const Sets sets = {"checkpoint.every=4", "train.eval_every=0", "train.steps=8"};
  ASSERT_TRUE(test::ends_well(run_.pretrain({"train.steps=4", "train.eval_every=0"})));
  const auto before = test::tensor_files_of(run_.checkpoint(4));
  {
    std::ofstream filler(run_.output() / "filler", std::ios::binary);
    const std::string block(4096, 'x');
    while (filler.write(block.data(), 4096) && filler.flush()) {
    }
  }
  const test::ProcessEnd end = run_.pretrain(sets);
  EXPECT_EQ(end.exit_code, 1) << end.err;
  EXPECT_THAT(end.err, AnyOf(HasSubstr("too little disk"), HasSubstr("No space left")));
  fs::remove(run_.output() / "filler");
  EXPECT_TRUE(test::tensor_files_of(run_.checkpoint(4)) == before);
  const test::ProcessEnd rest = run_.pretrain(sets);
  EXPECT_EQ(rest.exit_code, 0) << rest.err;
}

// NUM-10 and the NaN policy: a learning rate that throws the weights away.
TEST(NotFinite, NUM_10_skips_counts_and_stops_naming_step_and_tensor) {
  const TinyRun run;
  const Sets absurd = {"train.lr.schedule=constant", "train.lr.peak=1e30", "train.lr.min=1e30",
                       "train.lr.warmup_steps=0",    "train.eval_every=0", "train.nan.stop_after=3",
                       "checkpoint.every=1"};
  const test::ProcessEnd end = run.pretrain(absurd);
  EXPECT_EQ(end.exit_code, 1) << end.err;
  EXPECT_THAT(end.err,
              AllOf(HasSubstr("warning: step 2: skipped"), HasSubstr("error: step 4: 3 steps in a row"),
                    HasSubstr("model."), HasSubstr("lower the learning rate")));
  const std::vector<Json> metrics = test::metrics_of(run.output());
  ASSERT_EQ(metrics.size(), 4U);
  EXPECT_EQ(metrics[0].at("skipped"), 0);
  EXPECT_EQ(metrics[3].at("skipped"), 3);
}

TEST(NotFinite, action_stop_ends_at_the_first) {
  const TinyRun run;
  const test::ProcessEnd end =
      run.pretrain({"train.lr.schedule=constant", "train.lr.peak=1e30", "train.lr.min=1e30",
                    "train.lr.warmup_steps=0", "train.eval_every=0", "train.nan.action=stop"});
  EXPECT_EQ(end.exit_code, 1);
  EXPECT_THAT(end.err, AllOf(HasSubstr("error: step 2:"), HasSubstr("train.nan.action is stop")));
  EXPECT_EQ(test::metrics_of(run.output()).size(), 2U);
}

}  // namespace
}  // namespace fathom

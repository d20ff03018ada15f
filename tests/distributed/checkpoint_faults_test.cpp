// What goes wrong with the checkpoints of several ranks: a disk that is full for one of them, a torn part.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>

#include "ranks_run.h"

namespace fathom::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using RanksCheckpoint = RanksRun;

void limit_file_size(int process, rlim_t bytes) {
  const rlimit limit{bytes, RLIM_INFINITY};
  ASSERT_EQ(::prlimit(process, RLIMIT_FSIZE, &limit, nullptr), 0);
}

TEST_F(RanksCheckpoint, a_disk_that_is_full_for_one_rank_costs_that_save_only) {
  // No file of rank 1 may grow: its part cannot be written. A write beyond the limit is an error, no signal.
  ::signal(SIGXFSZ, SIG_IGN);
  const Sets sets = {"train.steps=300", "checkpoint.every=10", "checkpoint.keep=0", "train.eval_every=0"};
  std::unique_ptr<Process> process = start(2, "out", sets, {"--max-restarts", "0"});
  wait_for_step(*process, run_.output(), 25);
  limit_file_size(process_of("out", 1), 20000);
  const auto is_said = [&] {
    return text_of(run_.output() / "logs/rank_0.log").find("could not be saved") != std::string::npos;
  };
  while (process->is_running() && !is_said()) ::usleep(1000);
  limit_file_size(process_of("out", 1), RLIM_INFINITY);
  const ProcessEnd end = process->wait();
  ASSERT_TRUE(ends_well(end));
  EXPECT_THAT(end.err,
              AllOf(HasSubstr("error: the checkpoint of step "), HasSubstr("could not be saved: rank 1 on "),
                    HasSubstr("rank_00001_00001.safetensors"), HasSubstr("File too large"),
                    HasSubstr("earlier checkpoints are as they were")));
  const size_t at = end.err.find("the checkpoint of step ");
  ASSERT_NE(at, std::string::npos);
  const int64_t failed = std::stoll(end.err.substr(at + 23));
  EXPECT_FALSE(std::filesystem::exists(run_.checkpoint(failed)));
  for (const int64_t step : {int64_t{10}, failed - 10, int64_t{300}})
    EXPECT_TRUE(std::filesystem::exists(run_.checkpoint(step) / "manifest.json")) << step;
  EXPECT_EQ(metrics("out").size(), 300u);
}

TEST_F(RanksCheckpoint, a_disk_that_stays_full_ends_the_run_with_an_error) {
  ::signal(SIGXFSZ, SIG_IGN);
  const Sets sets = {"train.steps=100", "checkpoint.every=10", "checkpoint.keep=0", "train.eval_every=0"};
  std::unique_ptr<Process> process = start(2, "out", sets, {"--max-restarts", "0"});
  wait_for_step(*process, run_.output(), 25);
  limit_file_size(process_of("out", 1), 20000);
  const ProcessEnd end = process->wait();
  EXPECT_EQ(end.exit_code, 1);
  EXPECT_THAT(end.err, AllOf(HasSubstr("the last checkpoint could not be saved: rank 1 on "),
                             HasSubstr("the run goes on from the newest good one")));
  EXPECT_TRUE(std::filesystem::exists(run_.checkpoint(10) / "manifest.json"));
  EXPECT_FALSE(std::filesystem::exists(run_.checkpoint(100)));
  for (const auto& item : std::filesystem::directory_iterator(run_.output() / "checkpoints"))
    EXPECT_EQ(item.path().string().find(".tmp-"), std::string::npos) << item.path();
}

TEST_F(RanksCheckpoint, a_torn_part_is_passed_over_with_a_warning) {
  const Sets eight = {"train.steps=8", "train.eval_every=0",
                      "train.precision=bf16"};  // checkpoints at 4 and 8
  ASSERT_TRUE(ends_well(launch(2, "calm", eight)));
  ASSERT_TRUE(ends_well(launch(2, "torn", eight)));
  const auto part = run_.checkpoint(8, "torn") / "train_state/rank_00001_00001.safetensors";
  std::filesystem::resize_file(part, std::filesystem::file_size(part) / 2);
  const ProcessEnd end = launch(2, "torn", eight);
  ASSERT_TRUE(ends_well(end));
  EXPECT_THAT(end.err, AllOf(HasSubstr("warning: checkpoint "), HasSubstr("step_00000008 cannot be used"),
                             HasSubstr("rank_00001_00001.safetensors"), HasSubstr("(step 4 of 8)")));
  EXPECT_EQ(numbers_of(run_.output("calm")), numbers_of(run_.output("torn")));
  EXPECT_EQ(tensor_files_of(run_.checkpoint(8, "calm")), tensor_files_of(run_.checkpoint(8, "torn")));
}

}  // namespace
}  // namespace fathom::test

// Data-parallel runs through the binary: the law (docs/design.md, Parallelism), kills, stops.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "e2e/tiny_run.h"

namespace fathom::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class DataParallel : public ::testing::Test {
 protected:
  static Sets sets(int64_t ranks, const std::string& output, const Sets& more = {}) {
    Sets all = {"train.global_batch_size=8",
                "train.micro_batch_size=1",
                "train.threads=1",
                "train.steps=20",
                "parallel.zero=0",
                "output_dir=" + output,
                fmt::format("parallel.data={}", ranks)};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  static std::vector<std::string> launch_arguments(int64_t ranks, const Sets& sets,
                                                   const std::vector<std::string>& flags = {}) {
    std::vector<std::string> arguments = {"launch", "-n", std::to_string(ranks)};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    arguments.push_back("--");
    const std::vector<std::string> pretrain = TinyRun::pretrain_arguments(sets);
    arguments.insert(arguments.end(), pretrain.begin(), pretrain.end());
    return arguments;
  }
  ProcessEnd launch(int64_t ranks, const std::string& output, const Sets& more = {}) {
    return run_.fathom(launch_arguments(ranks, sets(ranks, output, more)));
  }
  std::vector<Json> metrics(const std::string& output) { return metrics_of(run_.output(output)); }

  TinyRun run_;
};

double relative(const Json& a, const Json& b) {
  const double x = a.get<double>(), y = b.get<double>();
  return std::abs(x - y) / std::max(1e-300, std::max(std::abs(x), std::abs(y)));
}

// In fp64, every step's losses and gradient norm to 1e-9, and the experts' loads exactly.
TEST_F(DataParallel, any_number_of_ranks_trains_as_one) {
  ASSERT_TRUE(ends_well(run_.pretrain(sets(1, "one", {"train.precision=fp64"}))));
  const std::vector<Json> one = metrics("one");
  ASSERT_EQ(one.size(), 20u);
  for (const int64_t ranks : {2, 4}) {
    const std::string name = fmt::format("ranks{}", ranks);
    ASSERT_TRUE(ends_well(launch(ranks, name, {"train.precision=fp64"})));
    const std::vector<Json> many = metrics(name);
    ASSERT_EQ(many.size(), one.size());
    for (size_t i = 0; i < one.size(); ++i) {
      for (const char* key : {"loss", "mtp_loss", "balance_loss", "grad_norm", "max_violation"})
        EXPECT_LT(relative(one[i][key], many[i][key]), 1e-9) << key << " of step " << i + 1 << ", " << ranks;
      EXPECT_EQ(one[i]["tokens"], many[i]["tokens"]);
      EXPECT_EQ(one[i].contains("eval_loss"), many[i].contains("eval_loss"));
      if (one[i].contains("eval_loss")) {
        EXPECT_LT(relative(one[i]["eval_loss"], many[i]["eval_loss"]), 1e-9);
      }
    }
    EXPECT_EQ(text_of(run_.output("one") / "expert_load.jsonl"),
              text_of(run_.output(name) / "expert_load.jsonl"));
  }
}

TEST_F(DataParallel, every_rank_has_a_log_and_the_terminal_has_the_loss) {
  const ProcessEnd end = launch(2, "out", {"train.steps=4"});
  ASSERT_TRUE(ends_well(end));
  EXPECT_THAT(end.err, HasSubstr("finished at step 4"));
  EXPECT_THAT(end.err, HasSubstr("2 ranks, started by fathom launch; this is rank 0 (data 0)"));
  EXPECT_THAT(end.err, Not(HasSubstr("this is rank 1")));
  EXPECT_THAT(text_of(run_.output() / "logs/rank_1.log"), HasSubstr("this is rank 1 (data 1)"));
}

// DATA-7, and one rank's checkpoint goes on with two: the same losses as the run that was never stopped.
TEST_F(DataParallel, a_checkpoint_goes_on_with_another_number_of_ranks) {
  const Sets fp64 = {"train.precision=fp64"};
  ASSERT_TRUE(ends_well(run_.pretrain(sets(1, "whole", fp64))));
  Sets first = sets(1, "moved", fp64);
  first.push_back("train.steps=20");
  std::unique_ptr<Process> process = run_.start(first);
  wait_for_step(*process, run_.output("moved"), 9);
  process->send(SIGTERM);
  ASSERT_TRUE(ends_well(process->wait()));
  const size_t before = metrics("moved").size();
  ASSERT_LT(before, 20u);
  ASSERT_TRUE(ends_well(launch(2, "moved", fp64)));
  const std::vector<Json> whole = metrics("whole"), moved = metrics("moved");
  ASSERT_EQ(moved.size(), 20u);
  for (size_t i = before; i < 20; ++i) EXPECT_LT(relative(whole[i]["loss"], moved[i]["loss"]), 1e-9) << i;
}

TEST_F(DataParallel, a_killed_rank_is_named_and_all_go_on_to_the_same_bits) {
  ASSERT_TRUE(ends_well(launch(2, "calm")));
  Process process(run_.directory(), TinyRun::words(launch_arguments(2, sets(2, "torn"))));
  wait_for_step(process, run_.output("torn"), 7);
  const std::string log = text_of(run_.output("torn") / "logs/rank_1.log");
  const size_t at = log.find("process ");
  ASSERT_NE(at, std::string::npos) << log;
  ::kill(std::stoi(log.substr(at + 8)), SIGKILL);
  const ProcessEnd end = process.wait();
  ASSERT_TRUE(ends_well(end));
  EXPECT_THAT(end.err, HasSubstr("rank 1 on "));
  EXPECT_THAT(end.err, HasSubstr("was killed by signal 9"));
  EXPECT_THAT(end.err, HasSubstr("starting all ranks again (1 of 3 restarts)"));
  EXPECT_EQ(numbers_of(run_.output("calm")), numbers_of(run_.output("torn")));
  EXPECT_EQ(tensor_files_of(run_.checkpoint(20, "calm")), tensor_files_of(run_.checkpoint(20, "torn")));
}

TEST_F(DataParallel, a_stopped_rank_is_found_by_its_silence) {
  Process process(run_.directory(),
                  TinyRun::words(launch_arguments(2, sets(2, "out", {"train.steps=2000"}),
                                                  {"--silence", "3", "--max-restarts", "0"})));
  wait_for_step(process, run_.output(), 2);
  const std::string log = text_of(run_.output() / "logs/rank_1.log");
  ::kill(std::stoi(log.substr(log.find("process ") + 8)), SIGSTOP);
  const ProcessEnd end = process.wait();
  EXPECT_EQ(end.exit_code, 1);
  EXPECT_THAT(end.err, HasSubstr("rank 1 on "));
  EXPECT_THAT(end.err, HasSubstr("has shown no life for 3 s"));
}

TEST_F(DataParallel, a_signal_saves_and_stops_all_ranks) {
  Process process(run_.directory(),
                  TinyRun::words(launch_arguments(2, sets(2, "out", {"train.steps=2000"}))));
  wait_for_step(process, run_.output(), 3);
  process.send(SIGINT);
  const ProcessEnd end = process.wait();
  ASSERT_TRUE(ends_well(end));
  EXPECT_THAT(end.err, HasSubstr("the same command continues from here"));
  const size_t done = metrics("out").size();
  EXPECT_TRUE(std::filesystem::exists(run_.checkpoint(static_cast<int64_t>(done)) / "manifest.json"));
}

TEST_F(DataParallel, no_rank_outlives_its_launcher) {
  Process process(run_.directory(),
                  TinyRun::words(launch_arguments(2, sets(2, "out", {"train.steps=100000"}))));
  wait_for_step(process, run_.output(), 2);
  std::vector<int> ranks;
  for (const int rank : {0, 1}) {
    const std::string log = text_of(run_.output() / fmt::format("logs/rank_{}.log", rank));
    ranks.push_back(std::stoi(log.substr(log.find("process ") + 8)));
  }
  process.send(SIGKILL);
  process.wait();
  for (const int rank : ranks) {
    int tries = 0;
    while (::kill(rank, 0) == 0 && ++tries < 20000) ::usleep(1000);
    EXPECT_NE(::kill(rank, 0), 0) << "rank " << rank << " is alive";
  }
}

TEST_F(DataParallel, another_number_of_ranks_is_refused_by_name) {
  const ProcessEnd end = run_.fathom(launch_arguments(3, sets(2, "out")));
  EXPECT_EQ(end.exit_code, 1);
  EXPECT_THAT(end.err, HasSubstr("the recipe's parallel section needs 2 ranks"));
  EXPECT_THAT(end.err, HasSubstr("fathom launch -n 2"));
  EXPECT_THAT(end.err, Not(HasSubstr("starting all ranks again")));
}

TEST_F(DataParallel, wrong_flags_of_launch) {
  EXPECT_EQ(run_.fathom({"launch", "-n", "2"}).exit_code, 2);
  const ProcessEnd several =
      run_.fathom({"launch", "-n", "1", "--nnodes", "2", "--", "pretrain", "run.yaml"});
  EXPECT_EQ(several.exit_code, 2);
  EXPECT_THAT(several.err, HasSubstr("needs --master HOST:PORT"));
  EXPECT_EQ(run_.fathom({"launch", "-n", "1", "--", "pretrian", "run.yaml"}).exit_code, 2);
}

}  // namespace
}  // namespace fathom::test

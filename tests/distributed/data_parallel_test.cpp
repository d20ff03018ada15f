// Data-parallel runs through the binary: the law (docs/design.md, Parallelism), kills, stops.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ranks_run.h"

namespace fathom::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

using DataParallel = RanksRun;

struct Layout {
  int64_t ranks, zero;
  std::string name() const { return fmt::format("ranks{}_zero{}", ranks, zero); }
};

// In fp64, every step's losses and gradient norm to 1e-9, and the experts' loads exactly; and each layout goes on from
// the checkpoint of another one, ten steps to the end (CK-3).
TEST_F(DataParallel, any_layout_trains_as_one_rank_and_goes_on_from_any_other) {
  const Sets fp64 = {"train.precision=fp64", "checkpoint.every=10", "train.balance.sequence_aux_loss=0.01"};
  const Layout one{1, 1};
  ASSERT_TRUE(ends_well(launch(1, one.name(), fp64)));
  const std::vector<Json> expected = metrics(one.name());
  ASSERT_EQ(expected.size(), 20u);
  EXPECT_GT(expected[5]["balance_loss"].get<double>(), 0);
  EXPECT_GT(expected[5]["grad_norm"].get<double>(), 1);  // it is clipped
  const Layout layouts[] = {{2, 0}, {2, 1}, {2, 2}, {4, 1}, {4, 2}};
  for (const Layout& layout : layouts) {
    Sets sets = fp64;
    sets.push_back(fmt::format("parallel.zero={}", layout.zero));
    if (layout.zero == 2) sets.push_back("train.recompute=full");
    ASSERT_TRUE(ends_well(launch(layout.ranks, layout.name(), sets)));
    ASSERT_EQ(metrics(layout.name()).size(), 20u);
    expect_same_numbers(expected, metrics(layout.name()), layout.name());
    EXPECT_EQ(text_of(run_.output(one.name()) / "expert_load.jsonl"),
              text_of(run_.output(layout.name()) / "expert_load.jsonl"));
  }
  for (const auto& [from, to] : std::vector<std::pair<Layout, Layout>>{{one, {2, 1}},
                                                                       {{2, 1}, one},
                                                                       {{2, 0}, {4, 2}},
                                                                       {{4, 2}, {2, 1}},
                                                                       {{4, 1}, {2, 0}},
                                                                       {{2, 2}, {4, 1}}}) {
    const std::string name = from.name() + "_to_" + to.name();
    const auto folder = run_.output(name) / "checkpoints";
    std::filesystem::create_directories(folder);
    std::filesystem::copy(run_.checkpoint(10, from.name()), folder / "step_00000010",
                          std::filesystem::copy_options::recursive);
    Sets sets = fp64;
    sets.push_back(fmt::format("parallel.zero={}", to.zero));
    ASSERT_TRUE(ends_well(launch(to.ranks, name, sets)));
    ASSERT_EQ(metrics(name).size(), 10u);
    expect_same_numbers(expected, metrics(name), name);
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

// The default, parallel.zero 1, with bfloat16 weights and their masters in shares.
TEST_F(DataParallel, a_killed_rank_is_named_and_all_go_on_to_the_same_bits) {
  const Sets bf16 = {"train.precision=bf16"};
  ASSERT_TRUE(ends_well(launch(2, "calm", bf16)));
  std::unique_ptr<Process> process = start(2, "torn", bf16);
  wait_for_step(*process, run_.output("torn"), 7);
  ::kill(process_of("torn", 1), SIGKILL);
  const ProcessEnd end = process->wait();
  ASSERT_TRUE(ends_well(end));
  EXPECT_THAT(end.err, HasSubstr("rank 1 on "));
  EXPECT_THAT(end.err, HasSubstr("was killed by signal 9"));
  EXPECT_THAT(end.err, HasSubstr("starting all ranks again (1 of 3 restarts)"));
  EXPECT_EQ(numbers_of(run_.output("calm")), numbers_of(run_.output("torn")));
  EXPECT_EQ(tensor_files_of(run_.checkpoint(20, "calm")), tensor_files_of(run_.checkpoint(20, "torn")));
}

TEST_F(DataParallel, a_stopped_rank_is_found_by_its_silence) {
  std::unique_ptr<Process> process =
      start(2, "out", {"train.steps=2000"}, {"--silence", "3", "--max-restarts", "0"});
  wait_for_step(*process, run_.output(), 2);
  ::kill(process_of("out", 1), SIGSTOP);
  const ProcessEnd end = process->wait();
  EXPECT_EQ(end.exit_code, 1);
  EXPECT_THAT(end.err, HasSubstr("rank 1 on "));
  EXPECT_THAT(end.err, HasSubstr("has shown no life for 3 s"));
}

TEST_F(DataParallel, a_signal_saves_and_stops_all_ranks) {
  std::unique_ptr<Process> process = start(2, "out", {"train.steps=2000"});
  wait_for_step(*process, run_.output(), 3);
  process->send(SIGINT);
  const ProcessEnd end = process->wait();
  ASSERT_TRUE(ends_well(end));
  EXPECT_THAT(end.err, HasSubstr("the same command continues from here"));
  const size_t done = metrics("out").size();
  EXPECT_TRUE(std::filesystem::exists(run_.checkpoint(static_cast<int64_t>(done)) / "manifest.json"));
}

TEST_F(DataParallel, no_rank_outlives_its_launcher) {
  std::unique_ptr<Process> process = start(2, "out", {"train.steps=100000"});
  wait_for_step(*process, run_.output(), 2);
  const std::vector<int> ranks = {process_of("out", 0), process_of("out", 1)};
  process->send(SIGKILL);
  process->wait();
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

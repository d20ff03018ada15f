#include "parallel/launch_environment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"

namespace fathom::parallel {
namespace {

using ::testing::HasSubstr;
using Variables = std::map<std::string, std::string>;

LaunchEnvironment read(const Variables& variables) {
  return read_launch_environment([&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

std::string refusal(const Variables& variables) {
  try {
    read(variables);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(LaunchEnvironment, nothing_set_is_one_rank) {
  const LaunchEnvironment e = read({{"SLURM_PROCID", "0"}});  // an interactive shell of Slurm
  EXPECT_EQ(e.world_size, 1);
  EXPECT_EQ(e.launcher, "none");
}

TEST(LaunchEnvironment, torchrun) {
  const LaunchEnvironment e = read({{"RANK", "3"},
                                    {"WORLD_SIZE", "4"},
                                    {"LOCAL_RANK", "1"},
                                    {"LOCAL_WORLD_SIZE", "2"},
                                    {"MASTER_ADDR", "n0"},
                                    {"MASTER_PORT", "4000"},
                                    {"TORCHELASTIC_RUN_ID", "x"},
                                    {"TORCHELASTIC_RESTART_COUNT", "2"},
                                    {"TORCHELASTIC_USE_AGENT_STORE", "True"}});
  EXPECT_EQ(e.launcher, "torchrun");
  EXPECT_EQ(e.rank, 3);
  EXPECT_EQ(e.local_rank, 1);
  EXPECT_EQ(e.master_host, "n0");
  EXPECT_EQ(e.master_port, 4000);
  EXPECT_TRUE(e.launcher_has_store);
  EXPECT_EQ(e.restart, 2);
}

TEST(LaunchEnvironment, slurm_names_its_first_host) {
  const LaunchEnvironment e = read({{"SLURM_PROCID", "5"},
                                    {"SLURM_NTASKS", "8"},
                                    {"SLURM_LOCALID", "1"},
                                    {"SLURM_STEP_NUM_NODES", "2"},
                                    {"SLURM_STEP_TASKS_PER_NODE", "4(x2)"},
                                    {"SLURM_STEP_NODELIST", "gpu[07-08]"},
                                    {"SLURM_JOB_ID", "100123"}});
  EXPECT_EQ(e.launcher, "Slurm");
  EXPECT_EQ(e.master_host, "gpu07");
  EXPECT_EQ(e.local_world_size, 4);
  EXPECT_EQ(e.master_port, 29500 + 100123 % 16000);
}

TEST(LaunchEnvironment, open_mpi) {
  Variables variables = {{"OMPI_COMM_WORLD_RANK", "1"},
                         {"OMPI_COMM_WORLD_SIZE", "2"},
                         {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
  EXPECT_EQ(read(variables).master_host, "127.0.0.1");
  variables["OMPI_COMM_WORLD_LOCAL_SIZE"] = "1";
  variables["OMPI_COMM_WORLD_LOCAL_RANK"] = "0";
  EXPECT_THAT(refusal(variables), HasSubstr("MASTER_ADDR is not set"));
}

TEST(LaunchEnvironment, what_is_wrong_is_named) {
  EXPECT_THAT(refusal({{"RANK", "x"}, {"WORLD_SIZE", "2"}}), HasSubstr("RANK=x is no number"));
  EXPECT_THAT(refusal({{"RANK", "2"}, {"WORLD_SIZE", "2"}}), HasSubstr("rank 2 of 2"));
  EXPECT_THAT(refusal({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "70000"}}),
              HasSubstr("70000 is no port"));
  EXPECT_THAT(refusal({{"OMPI_COMM_WORLD_RANK", "1"}}), HasSubstr("OMPI_COMM_WORLD_SIZE is not set"));
}

TEST(LaunchEnvironment, first_of_nodelist) {
  EXPECT_EQ(first_of_nodelist("a1"), "a1");
  EXPECT_EQ(first_of_nodelist("a1,b2"), "a1");
  EXPECT_EQ(first_of_nodelist("node[03-05,9],x"), "node03");
  EXPECT_EQ(first_of_nodelist("r[1,4]c[2-3]"), "r1c2");
  EXPECT_EQ(first_of_nodelist("broken[3"), "broken3");
}

}  // namespace
}  // namespace fathom::parallel

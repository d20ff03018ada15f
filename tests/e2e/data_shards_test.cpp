// A corpus built in parts by processes that know nothing of each other, and joined: docs/data.md, "At scale".
#include <gtest/gtest.h>

#include "e2e/data_build_run.h"

namespace fathom {
namespace {

using test::DataBuildRun;
using test::ProcessEnd;

TEST(DataShards, four_machines_build_what_one_builds) {
  DataBuildRun run;
  make_directories(run / "corpus/more");
  for (int file = 0; file < 11; ++file) {
    std::string lines;
    for (int i = 0; i < 50 + 300 * (file % 3); ++i)
      lines += Json({{"text", test::prose(500, static_cast<uint64_t>(1000 * file + i))}}).dump() + "\n";
    const std::string name = fmt::format("corpus/{}part{:02}.jsonl", file % 2 ? "more/" : "", file);
    file % 3 ? run.put_gzip(name + ".gz", lines) : run.put(name, lines);
  }
  ASSERT_EQ(run.build({"--input", "corpus", "--output-prefix", "whole", "--append-eod"}).exit_code, 0);

  std::vector<std::unique_ptr<test::Process>> machines;
  for (const char* i : {"0", "1", "2", "3"})
    machines.push_back(run.start(DataBuildRun::build_arguments(
        {"--input", "corpus", "--shard", std::string(i) + "/4", "--output-prefix", std::string("shards/") + i,
         "--append-eod", "--workers", "1"})));
  for (const auto& machine : machines) {
    const ProcessEnd end = machine->wait();
    ASSERT_EQ(end.exit_code, 0) << end.err;
  }
  const ProcessEnd merge =
      run.run({"data", "merge", "shards/0", "shards/1", "shards/2", "shards/3", "--output-prefix", "merged"});
  ASSERT_EQ(merge.exit_code, 0) << merge.err;
  EXPECT_GT(run.pair("whole").size(), 1'000'000u);
  EXPECT_TRUE(run.pair("merged") == run.pair("whole"));
}

}  // namespace
}  // namespace fathom

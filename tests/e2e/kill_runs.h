// A run that is killed again and again, each time at another moment, and started with the same command until
// it ends.
#pragma once

#include "e2e/tiny_run.h"

namespace fathom::test {

// How a run without interruptions looks.
struct Expected {
  std::vector<std::string> numbers;
  std::map<std::string, std::string> files;  // of the last checkpoint
};

inline Expected uninterrupted(const TinyRun& run, Sets sets, int64_t steps,
                              const std::string& name = "whole") {
  sets.push_back("output_dir=" + name);
  const ProcessEnd end = run.pretrain(sets);
  EXPECT_EQ(end.exit_code, 0) << end.err;
  return {numbers_of(run.output(name)), tensor_files_of(run.checkpoint(steps, name))};
}

inline void expect_same(const TinyRun& run, const Expected& expected, int64_t steps,
                        const std::string& name) {
  const std::vector<std::string> numbers = numbers_of(run.output(name));
  ASSERT_EQ(numbers.size(), expected.numbers.size()) << name;
  for (size_t i = 0; i < numbers.size(); ++i)
    ASSERT_EQ(numbers[i], expected.numbers[i]) << name << ", line " << i + 1;
  const auto files = tensor_files_of(run.checkpoint(steps, name));
  ASSERT_FALSE(expected.files.empty());
  ASSERT_EQ(files.size(), expected.files.size());
  for (const auto& [file, bytes] : expected.files) {
    ASSERT_TRUE(files.contains(file)) << file;
    EXPECT_TRUE(files.at(file) == bytes) << name << ": " << file << " has other bytes";
  }
}

// Kill number `round` falls a random while after the run has started, or after it has written its next steps:
// between them these reach loading, the steps, the save and its thread. Returns how many kills hit a living
// process.
inline int kill_until_done(const TinyRun& run, Sets sets, const std::string& name, int kills, uint64_t seed) {
  sets.push_back("output_dir=" + name);
  int hits = 0;
  for (int round = 0; round < kills; ++round) {
    const std::unique_ptr<Process> process = run.start(sets);
    const auto draw = static_cast<uint64_t>(round);
    if (round % 3 != 0) {  // the others die in the start
      const size_t before = lines_of(text_of(run.output(name) / "metrics.jsonl")).size();
      while (process->is_running()) {
        const size_t now = lines_of(text_of(run.output(name) / "metrics.jsonl")).size();
        if (now != before && now > static_cast<size_t>(2 + uniform(seed, 3 * draw) * 3)) break;
        ::usleep(500);
      }
      ::usleep(static_cast<useconds_t>(uniform(seed, 3 * draw + 1) * 15'000));
    } else {
      ::usleep(static_cast<useconds_t>(uniform(seed, 3 * draw + 2) * 400'000));
    }
    process->send(SIGKILL);
    hits += process->wait().signal == SIGKILL;
  }
  const ProcessEnd end = run.pretrain(sets);
  EXPECT_EQ(end.exit_code, 0) << end.err;
  return hits;
}

}  // namespace fathom::test

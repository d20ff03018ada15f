// Runs of several ranks through the binary: the tiny run of the e2e tests under `fathom launch`.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "e2e/tiny_run.h"

namespace fathom::test {

class RanksRun : public ::testing::Test {
 protected:
  static Sets sets(int64_t ranks, const std::string& output, const Sets& more = {}) {
    Sets all = {"train.global_batch_size=8", "train.micro_batch_size=1",
                "train.threads=1",           "train.steps=20",
                "output_dir=" + output,      fmt::format("parallel.data={}", ranks)};
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
  // One rank needs no launcher.
  ProcessEnd launch(int64_t ranks, const std::string& output, const Sets& more = {}) {
    const Sets all = sets(ranks, output, more);
    return ranks == 1 ? run_.pretrain(all) : run_.fathom(launch_arguments(ranks, all));
  }
  std::unique_ptr<Process> start(int64_t ranks, const std::string& output, const Sets& more = {},
                                 const std::vector<std::string>& flags = {}) {
    return std::make_unique<Process>(
        run_.directory(), TinyRun::words(launch_arguments(ranks, sets(ranks, output, more), flags)));
  }
  std::vector<Json> metrics(const std::string& output) { return metrics_of(run_.output(output)); }
  int process_of(const std::string& output, int64_t rank) {
    const std::string log = text_of(run_.output(output) / fmt::format("logs/rank_{}.log", rank));
    const size_t at = log.find("process ");
    EXPECT_NE(at, std::string::npos) << log;
    return at == std::string::npos ? -1 : std::stoi(log.substr(at + 8));
  }

  TinyRun run_;
};

inline double relative(const Json& a, const Json& b) {
  const double x = a.get<double>(), y = b.get<double>();
  return std::abs(x - y) / std::max(1e-300, std::max(std::abs(x), std::abs(y)));
}

// The law in fp64: every step's losses and gradient norm agree to 1e-9.
inline void expect_same_numbers(const std::vector<Json>& expected, const std::vector<Json>& found,
                                const std::string& what) {
  ASSERT_FALSE(found.empty()) << what;
  for (const Json& metrics : found) {
    const auto step = metrics.at("step").get<size_t>();
    ASSERT_LE(step, expected.size()) << what;
    const Json& reference = expected[step - 1];
    for (const char* key : {"loss", "mtp_loss", "balance_loss", "grad_norm", "max_violation"})
      EXPECT_LT(relative(reference[key], metrics[key]), 1e-9) << key << " of step " << step << ", " << what;
    EXPECT_EQ(reference["tokens"], metrics["tokens"]);
    EXPECT_EQ(reference.contains("eval_loss"), metrics.contains("eval_loss"));
    if (reference.contains("eval_loss") && metrics.contains("eval_loss")) {
      EXPECT_LT(relative(reference["eval_loss"], metrics["eval_loss"]), 1e-9) << what;
    }
  }
}

}  // namespace fathom::test

#include "train/metrics.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <fstream>
#include <limits>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "support/scratch.h"

namespace fathom::train {
namespace {

StepMetrics sample(int64_t step) {
  StepMetrics m;
  m.step = step;
  m.loss = 10.0 / static_cast<double>(step) + 0.1;
  m.mtp_loss = 1e-300;
  m.balance_loss = 1.25e-4;
  m.grad_norm = 0.1 + 0.2;  // no short decimal
  m.lr = 2.2e-4;
  m.tokens = 4096;
  m.tokens_per_second = 1932.5;
  m.max_violation = 0.41;
  m.skipped = 1;
  m.seconds = 2.125;
  return m;
}

std::vector<int64_t> steps_in(const fs::path& directory) {
  std::vector<int64_t> steps;
  for (const StepMetrics& m : read_metrics(directory)) steps.push_back(m.step);
  return steps;
}

void append_text(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::app | std::ios::binary) << text;
}

TEST(Metrics, a_line_has_the_promised_keys_in_order) {
  const test::ScratchDirectory scratch;
  MetricsFile(scratch.path(), 0).append(sample(2));
  EXPECT_EQ(read_text_file(scratch / "metrics.jsonl"),
            "{\"step\":2,\"loss\":5.1,\"mtp_loss\":1e-300,\"balance_loss\":0.000125,"
            "\"grad_norm\":0.30000000000000004,\"lr\":0.00022,\"tokens\":4096,\"tokens_per_second\":1932.5,"
            "\"max_violation\":0.41,\"skipped\":1,\"seconds\":2.125}\n");
}

TEST(Metrics, values_come_back_bit_for_bit) {
  const test::ScratchDirectory scratch;
  StepMetrics m = sample(3);
  m.loss = std::nextafter(2.0, 3.0);
  m.tokens = int64_t{1} << 60;
  m.eval_loss = 1e-17;
  m.tokens_per_second = std::numeric_limits<double>::max();
  MetricsFile(scratch.path(), 0).append(m);
  const auto history = read_metrics(scratch.path());
  ASSERT_EQ(history.size(), 1u);
  EXPECT_EQ(history[0].loss, m.loss);
  EXPECT_EQ(history[0].mtp_loss, m.mtp_loss);
  EXPECT_EQ(history[0].grad_norm, m.grad_norm);
  EXPECT_EQ(history[0].tokens, m.tokens);
  EXPECT_EQ(history[0].eval_loss, m.eval_loss);
  EXPECT_EQ(history[0].tokens_per_second, m.tokens_per_second);
}

TEST(Metrics, nan_and_infinity_are_null) {
  const test::ScratchDirectory scratch;
  StepMetrics m = sample(1);
  m.loss = std::numeric_limits<double>::quiet_NaN();
  m.grad_norm = std::numeric_limits<double>::infinity();
  m.eval_loss = 1000;  // its exponential is no double
  MetricsFile(scratch.path(), 0).append(m);
  const Json line = parse_json(read_text_file(scratch / "metrics.jsonl"), "metrics.jsonl");
  EXPECT_TRUE(line["loss"].is_null());
  EXPECT_TRUE(line["grad_norm"].is_null());
  EXPECT_EQ(line["eval_loss"], 1000);
  EXPECT_TRUE(line["eval_perplexity"].is_null());
  EXPECT_TRUE(std::isnan(read_metrics(scratch.path())[0].loss));
}

TEST(Metrics, resume_drops_later_steps) {
  const test::ScratchDirectory scratch;
  {
    MetricsFile file(scratch.path(), 0);
    for (int64_t s = 1; s <= 5; ++s) file.append(sample(s));
  }
  {
    MetricsFile file(scratch.path(), 3);
    EXPECT_EQ(steps_in(scratch.path()), (std::vector<int64_t>{1, 2, 3}));
    file.append(sample(4));
  }
  EXPECT_EQ(steps_in(scratch.path()), (std::vector<int64_t>{1, 2, 3, 4}));
  MetricsFile(scratch.path(), 0);
  EXPECT_EQ(fs::file_size(scratch / "metrics.jsonl"), 0u);
}

// A kill may end the file at any byte (every third and the last are tried: each costs a sync).
TEST(Metrics, torn_anywhere) {
  const test::ScratchDirectory scratch;
  {
    MetricsFile file(scratch.path(), 0);
    file.append(sample(1));
    file.append(sample(2));
  }
  const std::string whole = read_text_file(scratch / "metrics.jsonl");
  for (size_t size = 0; size <= whole.size(); size += size + 3 < whole.size() ? 3 : 1) {
    write_text_file(scratch / "metrics.jsonl", whole.substr(0, size));
    const auto lines = std::count(whole.begin(), whole.begin() + static_cast<long>(size), '\n');
    EXPECT_EQ(static_cast<int64_t>(read_metrics(scratch.path()).size()), lines);
    MetricsFile(scratch.path(), 10).append(sample(lines + 1));
    ASSERT_EQ(static_cast<int64_t>(read_metrics(scratch.path()).size()), lines + 1) << size;
    const std::string text = read_text_file(scratch / "metrics.jsonl");
    ASSERT_EQ(std::count(text.begin(), text.end(), '\n'), lines + 1) << size;
  }
}

TEST(Metrics, damaged_lines_and_double_steps_go) {
  const test::ScratchDirectory scratch;
  const fs::path path = scratch / "metrics.jsonl";
  append_text(path, "{\"step\":1,\"loss\":3}\n" + std::string(40, '\0') +
                        "\n[1,2]\n{\"step\":\"2\"}\n{\"loss\":1}\n\n");
  append_text(path, "{\"step\":2,\"loss\":2}\n{\"step\":3,\"loss\":9}\n{\"step\":2,\"loss\":1}\n");
  MetricsFile(scratch.path(), 9);
  EXPECT_EQ(read_text_file(path), "{\"step\":1,\"loss\":3}\n{\"step\":2,\"loss\":1}\n");
}

TEST(Metrics, an_intact_file_is_left_alone) {
  const test::ScratchDirectory scratch;
  MetricsFile(scratch.path(), 0).append(sample(1));
  const auto written = fs::last_write_time(scratch / "metrics.jsonl");
  fs::last_write_time(scratch / "metrics.jsonl", written - std::chrono::hours(1));
  MetricsFile(scratch.path(), 1);
  EXPECT_EQ(fs::last_write_time(scratch / "metrics.jsonl"), written - std::chrono::hours(1));
}

TEST(Metrics, no_file_is_an_empty_history_and_a_bad_place_an_error) {
  const test::ScratchDirectory scratch;
  EXPECT_TRUE(read_metrics(scratch.path()).empty());
  EXPECT_TRUE(read_expert_load(scratch.path()).empty());
  EXPECT_THROW(MetricsFile(scratch / "missing", 0), FileError);
  fs::create_directory(scratch / "metrics.jsonl");
  EXPECT_THROW(MetricsFile(scratch.path(), 0), FileError);
}

// A file size limit stands for a full disk: the record that does not fit leaves nothing behind.
TEST(Metrics, full_disk_leaves_whole_records) {
  const test::ScratchDirectory scratch;
  struct rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  MetricsFile file(scratch.path(), 0);
  file.append(sample(1));
  const auto size = fs::file_size(scratch / "metrics.jsonl");
  struct rlimit limit = before;
  limit.rlim_cur = size + 50;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  EXPECT_THROW(file.append(sample(2)), FileError);
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(fs::file_size(scratch / "metrics.jsonl"), size);
  file.append(sample(2));
  EXPECT_EQ(steps_in(scratch.path()), (std::vector<int64_t>{1, 2}));
}

TEST(ExpertLoad, round_trip) {
  const test::ScratchDirectory scratch;
  ExpertLoadFile(scratch.path(), 0, 10).append({2, {{3, {1.0, 0.98765, 0}}, {4, {}}}});
  EXPECT_EQ(read_text_file(scratch / "expert_load.jsonl"),
            "{\"step\":2,\"layers\":[{\"layer\":3,\"load\":[1,0.9877,0]},{\"layer\":4,\"load\":[]}]}\n");
  const auto history = read_expert_load(scratch.path());
  ASSERT_EQ(history.size(), 1u);
  ASSERT_EQ(history[0].layers.size(), 2u);
  EXPECT_EQ(history[0].step, 2);
  EXPECT_EQ(history[0].layers[0].layer, 3);
  EXPECT_EQ(history[0].layers[0].load, (std::vector<double>{1.0, 0.9877, 0}));
}

TEST(ExpertLoad, keeps_a_bounded_number_of_steps) {
  const test::ScratchDirectory scratch;
  for (const int64_t total : {1, 20, 400, 401, 100000}) {
    const ExpertLoadFile file(scratch.path(), 0, total);
    int64_t kept = 0;
    for (int64_t s = 1; s <= total; ++s) kept += file.wants(s);
    EXPECT_LE(kept, 402);
    EXPECT_GE(kept, std::min<int64_t>(total, 200));
    EXPECT_TRUE(file.wants(1));
    EXPECT_TRUE(file.wants(total));
  }
}

TEST(ExpertLoad, max_violation) {
  EXPECT_DOUBLE_EQ(max_violation({1, 1, 1, 1}), 0);
  EXPECT_DOUBLE_EQ(max_violation({0, 3, 1, 0}), 2);  // 3 against a mean of 1
  EXPECT_DOUBLE_EQ(max_violation({0, 0}), 0);
  EXPECT_DOUBLE_EQ(max_violation({}), 0);
}

}  // namespace
}  // namespace fathom::train

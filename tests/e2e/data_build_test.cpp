// `fathom data build` as a user runs it: interrupted, with bad input, within its memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "e2e/data_build_run.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using test::DataBuildRun;
using test::ProcessEnd;
using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;

bool exists(const DataBuildRun& run, const std::string& name) { return fs::exists(run / name); }

// One file of each kind: a long document, many short ones compressed, articles, a bad line.
void put_corpus(const DataBuildRun& run) {
  run.put_long("corpus/a.txt", "", test::prose(1'000'000, 1), 16, "end\n");
  std::string lines;
  for (int i = 0; i < 20'000; ++i)
    lines +=
        Json({{"text", test::prose(static_cast<size_t>(50 + i % 700), static_cast<uint64_t>(i))}}).dump() +
        "\n";
  run.put_gzip("corpus/b.jsonl.gz", lines + "{broken\n" + lines);
  std::string articles;
  for (int i = 0; i < 300; ++i)
    articles +=
        fmt::format(" = Article {} = \n \n{} \n \n", i, test::prose(30'000, static_cast<uint64_t>(i)));
  run.put("corpus/c.tokens", articles);
}

class DataBuildKills : public testing::TestWithParam<std::vector<std::string>> {};

TEST_P(DataBuildKills, give_the_bytes_of_a_build_without) {
  DataBuildRun run;
  make_directories(run / "corpus");
  put_corpus(run);
  const auto arguments = [&](const std::string& prefix, const std::string& workers) {
    std::vector<std::string> words = {"--input",    "corpus", "--output-prefix", prefix, "--append-eod",
                                      "--on-error", "skip",   "--save-every",    "0.05", "--workers",
                                      workers};
    words.insert(words.end(), GetParam().begin(), GetParam().end());
    return words;
  };
  const bool is_split = !GetParam().empty() && GetParam()[0] == "--split";
  const ProcessEnd whole = run.build(arguments("whole", "2"));
  ASSERT_EQ(whole.exit_code, 0) << whole.err;

  // The first of each three dies anywhere in its start; the others when they have saved, a moment later.
  const fs::path journal = run / "killed.build/journal.json";
  int hits = 0, resumed = 0;
  for (uint64_t round = 0; round < 8; ++round) {
    const std::string before = test::text_of(journal);
    const auto process =
        run.start(DataBuildRun::build_arguments(arguments("killed", std::to_string(1 + round % 3))));
    if (round % 3 == 0) {
      ::usleep(static_cast<useconds_t>(uniform(42, 2 * round) * 300'000));
    } else {
      while (process->is_running()) {
        const std::string now = test::text_of(journal);
        if (!now.empty() && now != before) break;
        ::usleep(500);
      }
      ::usleep(static_cast<useconds_t>(uniform(42, 2 * round + 1) * 20'000));
    }
    process->send(round % 4 == 3 ? SIGINT : SIGKILL);
    const ProcessEnd end = process->wait();
    hits += end.exit_code != 0;
    resumed += end.err.find("going on after") != std::string::npos;
    if (end.exit_code == 0) continue;
    for (const char* name : {"killed.idx", "killed_test.idx"}) EXPECT_FALSE(exists(run, name)) << end.err;
    if (round % 4 == 3 && end.signal == 0) {
      EXPECT_THAT(end.err, AnyOf(HasSubstr("the same command goes on from there"), HasSubstr("signal")));
    }
  }
  const ProcessEnd end = run.build(arguments("killed", "2"));
  ASSERT_EQ(end.exit_code, 0) << end.err;
  EXPECT_GE(hits, 3);
  EXPECT_GE(resumed + (end.err.find("going on after") != std::string::npos), 2);
  const std::vector<std::string> outputs =
      is_split ? std::vector<std::string>{"_train", "_valid", "_test"} : std::vector<std::string>{""};
  for (const std::string& output : outputs) {
    EXPECT_GT(run.pair("whole" + output).size(), 1000u);
    EXPECT_TRUE(run.pair("killed" + output) == run.pair("whole" + output)) << output;
    EXPECT_EQ(test::text_of(run / ("killed" + output + ".meta.json")),
              test::text_of(run / ("whole" + output + ".meta.json")));
  }
  EXPECT_FALSE(exists(run, "killed.build"));
  for (const auto& entry : fs::directory_iterator(run.directory()))
    EXPECT_EQ(entry.path().filename().string().find("tmp"), std::string::npos)
        << entry.path() << " was left behind";
}

INSTANTIATE_TEST_SUITE_P(, DataBuildKills,
                         testing::Values(std::vector<std::string>{},
                                         std::vector<std::string>{"--split", "90,8,2"},
                                         std::vector<std::string>{"--seq-length", "1000"}));

TEST(DataBuild, a_full_disk_ends_it_and_more_room_goes_on) {
  DataBuildRun run;
  make_directories(run / "corpus");
  put_corpus(run);
  const std::vector<std::string> arguments = {"--input",    "corpus", "--output-prefix", "p",
                                              "--on-error", "skip",   "--save-every",    "0.01"};
  const ProcessEnd full = run.build(arguments, [] {
    const rlimit limit = {12'000'000, RLIM_INFINITY};
    return ::signal(SIGXFSZ, SIG_IGN) != SIG_ERR && ::setrlimit(RLIMIT_FSIZE, &limit) == 0;
  });
  EXPECT_EQ(full.exit_code, 1);
  EXPECT_THAT(full.err, AllOf(HasSubstr("error: cannot write"), HasSubstr("p.build/tokens")));
  EXPECT_FALSE(exists(run, "p.bin"));
  EXPECT_FALSE(exists(run, "p.idx"));
  const ProcessEnd end = run.build(arguments);
  EXPECT_EQ(end.exit_code, 0) << end.err;
  EXPECT_THAT(end.err, HasSubstr("going on after"));
  ASSERT_EQ(run.build({"--input", "corpus", "--output-prefix", "q", "--on-error", "skip"}).exit_code, 0);
  EXPECT_TRUE(run.pair("p") == run.pair("q"));
}

TEST(DataBuild, DATA_3_two_million_one_word_documents_in_the_stated_memory) {
  DataBuildRun run;
  std::string lines;
  for (int i = 0; i < 20'000; ++i) lines += "{\"text\":\"word\"}\n";
  run.put_long("a.jsonl", "", lines, 100, "");
  const ProcessEnd end = run.build({"--input", "a.jsonl", "--output-prefix", "p", "--workers", "1", "--json"},
                                   test::within_stated_memory(1));
  ASSERT_EQ(end.exit_code, 0) << end.err;
  EXPECT_EQ(Json::parse(end.out)["outputs"][0]["documents"], 2'000'000);
  ASSERT_EQ(run.build({"--input", "a.jsonl", "--output-prefix", "q", "--workers", "8"},
                      test::within_stated_memory(8))
                .exit_code,
            0);
  EXPECT_TRUE(run.pair("p") == run.pair("q"));
}

// The stated memory, with the worst that passes: words of nearly the longest length without a place for a cut.
TEST(DataBuild, words_of_a_mebibyte_in_the_stated_memory) {
  DataBuildRun run;
  std::string lines;
  for (int i = 0; i < 6; ++i)
    lines += Json({{"text", std::string(data::kMaxUncutBytes - 1000, "-ae"[i % 3])}}).dump() + "\n";
  run.put("a.jsonl", lines);
  for (const int workers : {1, 3}) {
    const ProcessEnd end = run.build(
        {"--input", "a.jsonl", "--output-prefix", "p", "--workers", std::to_string(workers), "--json"},
        test::within_stated_memory(workers));
    ASSERT_EQ(end.exit_code, 0) << end.err;
    EXPECT_EQ(Json::parse(end.out)["outputs"][0]["documents"], 6);
  }
}

TEST(DataBuild, workers_bound_the_threads) {
  DataBuildRun run;
  run.put_long("a.txt", "", test::prose(1'000'000, 1), 20, "");
  for (const int workers : {1, 3}) {
    const auto process = run.start(DataBuildRun::build_arguments(
        {"--input", "a.txt", "--output-prefix", "p", "--workers", std::to_string(workers)}));
    int most = 0;
    while (process->is_running()) {
      const std::string status = test::text_of(fmt::format("/proc/{}/status", process->id()));
      const size_t at = status.find("Threads:");
      if (at != std::string::npos) most = std::max(most, std::atoi(status.c_str() + at + 8));
    }
    EXPECT_EQ(process->wait().exit_code, 0);
    EXPECT_EQ(most, workers);
  }
}

TEST(DataBuild, bad_input_is_skipped_and_reported) {
  DataBuildRun run;
  run.put("d/good.jsonl", "{\"text\":\"a\"}\n{\"txt\":\"b\"}\n{\"text\":\"c\"}\n");
  run.put("d/bad.txt", "x\xffy");
  run.put("d/notes.md", "ignored");
  std::string lines;
  for (int i = 0; i < 3000; ++i)
    lines += Json({{"text", test::prose(100, static_cast<uint64_t>(i))}}).dump() + "\n";
  run.put_gzip("d/whole.jsonl.gz", lines);
  const std::string packed = test::text_of(run / "d/whole.jsonl.gz");
  run.put("d/cut.jsonl.gz", packed.substr(0, packed.size() / 2));
  fs::remove(run / "d/whole.jsonl.gz");

  const ProcessEnd stopped = run.build({"--input", "d", "--output-prefix", "p"});
  EXPECT_EQ(stopped.exit_code, 1);
  EXPECT_THAT(stopped.err, HasSubstr("error: d/bad.txt: line 1 (byte 1): byte 0xff is not valid UTF-8"));
  EXPECT_THAT(stopped.err, HasSubstr("ignored, being no .tokens, .txt or .jsonl: 1 file (d/notes.md)"));
  EXPECT_FALSE(exists(run, "p.bin"));

  const ProcessEnd end = run.build({"--input", "d", "--output-prefix", "p", "--on-error", "skip", "--json"});
  ASSERT_EQ(end.exit_code, 0) << end.err;
  const Json report = Json::parse(end.out);
  EXPECT_EQ(report["skipped_documents"], 3);
  ASSERT_EQ(report["errors"].size(), 3u);
  EXPECT_THAT(report["errors"][0].get<std::string>(), HasSubstr("d/bad.txt: line 1 (byte 1)"));
  EXPECT_THAT(report["errors"][1].get<std::string>(),
              AllOf(HasSubstr("d/cut.jsonl.gz: not readable as gzip near byte"), HasSubstr("truncated"),
                    HasSubstr("line ")));
  EXPECT_THAT(report["errors"][2].get<std::string>(),
              HasSubstr("d/good.jsonl: line 2 (byte 13): no key \"text\""));
  EXPECT_GT(report["outputs"][0]["documents"], 1000) << "those before the break";
}

TEST(DataBuild, what_is_not_there_is_wrong_usage) {
  DataBuildRun run;
  run.put("a.csv", "x");
  make_directories(run / "empty");
  const std::vector<std::vector<std::string>> wrong = {
      {"--input", "none.txt"}, {"--input", "*.jsonl"}, {"--input", "a.csv"}, {"--input", "empty"}, {}};
  for (const auto& input : wrong) {
    std::vector<std::string> arguments = input;
    arguments.insert(arguments.end(), {"--output-prefix", "p"});
    const ProcessEnd end = run.build(arguments);
    EXPECT_EQ(end.exit_code, 2) << end.err;
    EXPECT_THAT(end.err, HasSubstr(input.empty() ? "no input" : input[1]));
    EXPECT_FALSE(exists(run, "p.build"));
  }
}

}  // namespace
}  // namespace fathom

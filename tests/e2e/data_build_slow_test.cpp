// Memory of `fathom data build` on documents of 300 MB: one file, one line of JSON, one article without headings.
#include <gtest/gtest.h>

#include "e2e/data_build_run.h"

namespace fathom {
namespace {

using test::DataBuildRun;

TEST(DataBuildSlow, documents_of_300_megabytes_in_the_stated_memory) {
  DataBuildRun run;
  const std::string text = test::prose(3'000'000, 1);
  const std::string escaped = Json(text).dump();
  run.put_long("a.txt", "", text, 100, "");
  run.put_long("a.jsonl", "{\"text\":\"", escaped.substr(1, escaped.size() - 2), 100, "\"}\n");
  run.put_long("a.tokens", "", text, 100, "");
  std::string expected;
  for (const char* name : {"a.txt", "a.jsonl", "a.tokens"}) {
    for (const int workers : {1, 4}) {
      const test::ProcessEnd end = run.build({"--input", name, "--output-prefix", "p", "--workers",
                                              std::to_string(workers), "--sequences", "document", "--json"},
                                             test::within_stated_memory(workers));
      ASSERT_EQ(end.exit_code, 0) << name << "\n" << end.err;
      EXPECT_EQ(Json::parse(end.out)["outputs"][0]["sequences"], 1);
      const std::string got = run.pair("p");
      if (expected.empty()) expected = got;
      EXPECT_TRUE(got == expected) << name << ", " << workers << " workers";
    }
  }
}

}  // namespace
}  // namespace fathom

// fathom data sft, inspect and tokenize --chat as a user runs them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "support/process.h"
#include "support/scratch.h"

namespace fathom {
namespace {

using testing::HasSubstr;

class DataSft : public testing::Test {
 protected:
  test::ProcessEnd fathom(std::vector<std::string> words) const {
    words.insert(words.begin(), FATHOM_BINARY);
    return test::Process(directory_.path(), std::move(words)).wait();
  }
  Json json_of(std::vector<std::string> words) const {
    words.push_back("--json");
    const test::ProcessEnd end = fathom(std::move(words));
    EXPECT_EQ(end.exit_code, 0) << end.err;
    return Json::parse(end.out);
  }
  void write(const std::string& name, const std::string& text) const {
    write_text_file(directory_.path() / name, text);
  }
  const test::ScratchDirectory directory_;
  const std::string tokenizer_ = std::string(FATHOM_SOURCE_DIR) + "/assets/tokenizer";
};

TEST_F(DataSft, DATA_6_inspect_shows_text_ids_and_mask_of_each_token) {
  write("a.json",
        R"([{"instruction":"Say it","input":"twice","output":"it it"},{"instruction":"x","output":"y"}])");
  const Json report = json_of({"data", "sft", "--tokenizer", tokenizer_, "--input", "a.json", "--seq-length",
                               "16", "--output", "out/p"});
  EXPECT_EQ(report.at("rows"), 2);
  EXPECT_EQ(report.at("chat_template"), "v3");
  const Json look = json_of({"data", "inspect", "out/p", "--sample", "0", "--tokenizer", tokenizer_});
  const Json& row = look.at("sample");
  const auto length = row.at("length").get<size_t>();
  EXPECT_EQ(row.at("ids").size(), 17u);
  EXPECT_EQ(row.at("loss_mask").size(), 17u);
  EXPECT_EQ(row.at("text"),
            "<｜begin▁of▁sentence｜><｜User｜>Say it\ntwice<｜Assistant｜>it it<｜end▁of▁sentence｜>");
  EXPECT_EQ(row.at("loss_mask")[length - 1], 1);
  EXPECT_EQ(row.at("loss_mask")[length], 0);
  const test::ProcessEnd shown =
      fathom({"data", "inspect", "out/p", "--sample", "0", "--tokenizer", tokenizer_});
  EXPECT_THAT(shown.out,
              HasSubstr("⟦<｜begin▁of▁sentence｜><｜User｜>Say it\ntwice<｜Assistant｜>⟧it it<｜end"));
  EXPECT_THAT(shown.out, HasSubstr("       0        0        0  \"<｜begin▁of▁sentence｜>\"\n"));
}

TEST_F(DataSft, DATA_5_the_prompt_of_a_sample_is_that_of_tokenize_chat) {
  write("m.jsonl", R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]})");
  write("p.json", R"([{"role":"user","content":"q"}])");
  for (const char* name : {"v3", "v3-0324", "r1", "v3.1"}) {
    json_of({"data", "sft", "--tokenizer", tokenizer_, "--input", "m.jsonl", "--seq-length", "64", "--output",
             "p", "--chat-template", name});
    const Json row = json_of({"data", "inspect", "p", "--sample", "0"}).at("sample");
    const Json prompt =
        json_of({"tokenize", "--tokenizer", tokenizer_, "--chat", "p.json", "--chat-template", name})
            .at("ids");
    for (size_t i = 0; i < prompt.size(); ++i) {
      EXPECT_EQ(row.at("ids")[i], prompt[i]) << name;
      EXPECT_EQ(row.at("loss_mask")[i], 0) << name;
    }
    EXPECT_EQ(row.at("loss_mask")[prompt.size()], 1) << name;
  }
}

TEST_F(DataSft, mindrecord_files_are_written_and_looked_into) {
  write("a.json", R"([{"instruction":"x","output":"y"},{"instruction":"z","output":"y"}])");
  const Json report = json_of({"data", "sft", "--tokenizer", tokenizer_, "--input", "a.json", "--seq-length",
                               "8", "--output", "r", "--container", "mindrecord"});
  EXPECT_EQ(report.at("output"), "r.mindrecord");
  const Json look = json_of({"data", "inspect", "r.mindrecord", "--sample", "1"});
  EXPECT_EQ(look.at("rows"), 2);
  EXPECT_EQ(look.at("sample").at("values").at("input_ids").size(), 9u);
  EXPECT_EQ(look.at("sample").at("values").at("labels")[8], -100);
}

TEST_F(DataSft, mistakes_are_one_line_and_leave_nothing) {
  write("bad.jsonl", "{\"messages\":[{\"role\":\"usr\",\"content\":\"x\"}]}\n");
  const std::vector<std::string> start = {"data", "sft",      "--tokenizer", tokenizer_, "--seq-length",
                                          "8",    "--output", "none/p",      "--input"};
  const auto run = [&](std::vector<std::string> more) {
    more.insert(more.begin(), start.begin(), start.end());
    return fathom(more);
  };
  const test::ProcessEnd bad = run({"bad.jsonl"});
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_THAT(bad.err, HasSubstr("bad.jsonl: line 1 (record 0): messages[0].role: unknown role \"usr\""));
  EXPECT_EQ(run({"missing.json"}).exit_code, 2);
  EXPECT_EQ(run({"bad.jsonl:x"}).exit_code, 2);
  EXPECT_EQ(run({"bad.jsonl", "--weights", "1,2"}).exit_code, 2);
  EXPECT_EQ(run({"bad.jsonl", "--samples", "3"}).exit_code, 2);
  EXPECT_FALSE(std::filesystem::exists(directory_.path() / "none/p.idx"));
}

}  // namespace
}  // namespace fathom

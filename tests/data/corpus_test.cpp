#include "data/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "data/corpus_inputs.h"
#include "support/scratch.h"

namespace fathom::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

const fs::path kAssets = FATHOM_SOURCE_DIR "/assets";

// Cuts behind the last line end, without a tokenizer.
size_t at_line_end(std::string_view text) { return text.rfind('\n', text.size() - 2) + 1; }

struct Document {
  std::string text;
  std::string error;
};

std::vector<Document> documents_of(const std::vector<fs::path>& inputs, size_t batch_bytes = 1000) {
  CorpusReader reader(inputs, "text", at_line_end);
  JsonTextScanner scanner("text");
  std::vector<Document> documents;
  for (TextBatch batch; reader.next(batch, batch_bytes);) {
    for (const TextUnit& unit : batch.units) {
      if (unit.begins_document) documents.emplace_back();
      std::string text = batch.text.substr(unit.begin, unit.size);
      if (unit.is_json_line) {
        const std::string line = text;
        documents.back().error = json_line_text(unit, line, inputs[unit.file], scanner, text);
      }
      documents.back().text += text;
      if (!unit.error.empty()) documents.back().error = unit.error;
    }
  }
  return documents;
}

std::vector<std::string> texts_of(const std::vector<fs::path>& inputs) {
  std::vector<std::string> texts;
  for (const Document& document : documents_of(inputs)) {
    EXPECT_EQ(document.error, "");
    texts.push_back(document.text);
  }
  return texts;
}

TEST(Corpus, wikitext_articles_begin_at_headings_between_blank_lines) {
  const test::ScratchDirectory scratch;
  const std::string text =
      " \n = One = \n \n text \n = 3 = \n not a heading \n \n = = Section = = \n \n more \n \n = Two = \n \n "
      "end \n";
  write_text_file(scratch / "a.tokens", text);
  EXPECT_THAT(texts_of({scratch / "a.tokens"}),
              ElementsAre(text.substr(2, text.find(" = Two") - 2), text.substr(text.find(" = Two"))));
}

TEST(Corpus, headings) {
  EXPECT_TRUE(is_article_heading(" = A = \n"));
  EXPECT_TRUE(is_article_heading(" = A = B = \r\n"));
  for (const char* line : {" = = A = = \n", "= A =\n", " = = \n", " =  = ", "", " = ", " text = \n"})
    EXPECT_FALSE(is_article_heading(line)) << line;
}

TEST(Corpus, a_text_file_is_a_document_and_a_json_line_is_one) {
  const test::ScratchDirectory scratch;
  write_text_file(scratch / "a.txt", "one\n\ntwo");
  write_text_file(scratch / "b.txt", " \n\n");
  write_text_file(scratch / "c.jsonl",
                  "{\"text\":\"x\\ny\"}\n\n{\"id\":1,\"text\":\"\\u00e9\\ud83d\\ude00\"}");
  EXPECT_THAT(texts_of({scratch / "a.txt", scratch / "b.txt", scratch / "c.jsonl"}),
              ElementsAre("one\n\ntwo", "x\ny", "\u00e9\U0001F600"));
  EXPECT_THROW(CorpusReader({scratch / "a.csv"}, "text", at_line_end), UsageError);
  EXPECT_THROW(CorpusReader({scratch / "a.csv.gz"}, "text", at_line_end), UsageError);
}

TEST(Corpus, wikitext_2_has_600_training_articles) {
  int64_t articles = 0;
  size_t bytes = 0;
  for (const std::string& text : texts_of({kAssets / "wikitext-2/wiki.train.tokens.zst"})) {
    EXPECT_TRUE(is_article_heading(std::string_view(text).substr(0, text.find('\n'))));
    ++articles;
    bytes += text.size();
  }
  EXPECT_EQ(articles, 600);
  EXPECT_EQ(bytes, 10797148u - 2) << "everything but the blank line before the first article";
}

TEST(Corpus, reading_goes_on_from_every_position) {
  const test::ScratchDirectory scratch;
  std::string article = " = A = \n \n", lines;
  for (int i = 0; i < 40'000; ++i)
    article += " word " + std::to_string(i) + " \n" + (i % 9000 == 0 ? " \n" : "");
  write_text_file(scratch / "a.tokens", article + " \n = B = \n \n short \n");
  write_text_file(scratch / "b.txt", article);
  for (int i = 0; i < 3000; ++i)
    lines += "{\"text\":\"" + std::string(static_cast<size_t>(i % 400), 'x') + "1\"}\n";
  write_text_file(scratch / "c.jsonl", lines + "{\"text\":\"" + std::string(600'000, 'y') + "\\n" +
                                           std::string(600'000, 'z') + "\"}\n{\"text\":\"end\"}\n");
  const std::vector<fs::path> inputs = {scratch / "a.tokens", scratch / "b.txt", scratch / "c.jsonl"};

  std::vector<CorpusPosition> positions;
  std::vector<std::string> after;  // all text given after each position
  std::vector<uint64_t> text_bytes;
  CorpusReader reader(inputs, "text", at_line_end);
  for (TextBatch batch; reader.next(batch, 100'000);) {
    for (std::string& text : after) text += batch.text;
    if (!batch.is_resumable) continue;
    positions.push_back(batch.end);
    text_bytes.push_back(batch.text_bytes);
    after.emplace_back();
  }
  ASSERT_GT(positions.size(), 10u);
  bool saw_inside_document = false;
  for (size_t i = 0; i < positions.size(); ++i) {
    saw_inside_document |= positions[i].in_document;
    CorpusReader again(inputs, "text", at_line_end, positions[i], text_bytes[i]);
    std::string rest;
    TextBatch batch;
    while (again.next(batch, 50'000)) rest += batch.text;
    ASSERT_TRUE(rest == after[i]) << i << ": file " << positions[i].file << ", byte " << positions[i].byte;
    EXPECT_EQ(batch.text_bytes,
              fs::file_size(inputs[0]) + fs::file_size(inputs[1]) + fs::file_size(inputs[2]));
  }
  EXPECT_TRUE(saw_inside_document);
}

// --- the string of a JSON line ---

std::string scan(std::string_view line, std::string& text, size_t step) {
  JsonTextScanner scanner("text");
  text.clear();
  scanner.start();
  for (size_t at = 0; at < line.size(); at += step)
    if (!scanner.feed(line.substr(at, step), text)) return scanner.problem();
  return scanner.finish() ? "" : scanner.problem();
}

TEST(JsonText, takes_the_string_however_the_line_is_cut) {
  const std::string line =
      " {\"a\":[1,-0.5e+3,{\"text\":\"no\"},[],{}],\"t\\u0065xt\" : "
      "\"q\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00E9\\ud83d\\ude00\u4f60\","
      "\"b\":true,\"c\":null,\"d\":false,\"e\":0}\r\n";
  for (const size_t step : {size_t{1}, size_t{2}, size_t{3}, size_t{7}, line.size()}) {
    std::string text;
    EXPECT_EQ(scan(line, text, step), "") << step;
    EXPECT_EQ(text, "q\"\\/\b\f\n\r\t\u00e9\U0001F600\u4f60");
  }
}

TEST(JsonText, judges_lines_as_nlohmann_does) {
  const std::vector<std::string> lines = {R"({"text":"a"})",
                                          R"({"text":"a",})",
                                          R"({"text":"a"}})",
                                          R"({"text":"a"} x)",
                                          R"({"text":"a")",
                                          R"({"text":"a)",
                                          R"({"text":"\x"})",
                                          R"({"text":"\u12"})",
                                          R"({"text":"\ud800"})",
                                          R"({"text":"\ud800x"})",
                                          R"({"text":"\udc00"})",
                                          R"({"text":"\ud800\n"})",
                                          R"({"text":"\ud800\ud800"})",
                                          "{\"text\":\"a\tb\"}",
                                          R"({text:"a"})",
                                          R"({'text':'a'})",
                                          R"({"text":"a","n":01})",
                                          R"({"text":"a","n":1.})",
                                          R"({"text":"a","n":.5})",
                                          R"({"text":"a","n":-})",
                                          R"({"text":"a","n":1e})",
                                          R"({"text":"a","n":1e+})",
                                          R"({"text":"a","n":+1})",
                                          R"({"text":"a","n":-0})",
                                          R"({"text":"a","n":10.25E-7})",
                                          R"({"text":"a","n":NaN})",
                                          R"({"text":"a","n":tru})",
                                          R"({"text":"a","n":truee})",
                                          R"({"text":"a","n":[1,]})",
                                          R"({"text":"a","n":[,1]})",
                                          R"({"text":"a","n":[1 2]})",
                                          R"({"text":"a" "n":1})",
                                          R"({"text" "a"})",
                                          R"({,"text":"a"})",
                                          R"({"text":"a","n":[[[[]]]]})",
                                          R"({"n":{"m":{}},"text":""})",
                                          R"({}{})",
                                          R"({"text":"a","n":[}]})",
                                          R"({"text":"a","n":{]})",
                                          "{\"text\":\"a\"}\v"};
  for (const std::string& line : lines) {
    std::string text;
    const std::string problem = scan(line, text, 5);
    bool expected = nlohmann::json::accept(line);
    EXPECT_EQ(problem.empty(), expected) << line << ": " << problem;
    if (expected) {
      EXPECT_EQ(text, nlohmann::json::parse(line)["text"].get<std::string>()) << line;
    }
  }
}

TEST(JsonText, says_what_is_wrong_and_where) {
  std::string text;
  const auto problem = [&](std::string_view line) { return scan(line, text, 100); };
  EXPECT_THAT(problem(R"({"text":"a\q"})"),
              HasSubstr("not valid JSON at byte 11 of the line: no such escape"));
  EXPECT_THAT(problem(R"({"text":{"text":"a"}})"), HasSubstr("\"text\" is no string"));
  EXPECT_THAT(problem(R"({"a":{"text":"a"}})"), HasSubstr("no key \"text\""));
  EXPECT_THAT(problem(R"({"txt":"a"})"), HasSubstr("did you mean \"txt\"?"));
  EXPECT_THAT(problem(std::string("{\"a\":") + std::string(5000, '[')), HasSubstr("nested deeper than 512"));
  EXPECT_THAT(problem("\"text\""), HasSubstr("no JSON object"));
}

// --- which files ---

class Inputs : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"d/b.jsonl.gz", "d/a.txt", "d/sub/c.tokens.zst", "d/README.md", "d/sub/x.csv"}) {
      make_directories((scratch_ / name).parent_path());
      write_text_file(scratch_ / name, "text");
    }
  }
  std::string path(const std::string& name) { return (scratch_ / name).string(); }
  test::ScratchDirectory scratch_;
};

TEST_F(Inputs, directories_and_patterns_are_sorted_and_say_what_they_leave_out) {
  const CorpusInputs below = find_corpus_inputs({path("d")});
  EXPECT_THAT(below.files, ElementsAre(path("d/a.txt"), path("d/b.jsonl.gz"), path("d/sub/c.tokens.zst")));
  EXPECT_THAT(below.ignored, ElementsAre(path("d/README.md"), path("d/sub/x.csv")));
  EXPECT_THAT(find_corpus_inputs({path("d/*.gz"), path("d/*.txt")}).files,
              ElementsAre(path("d/b.jsonl.gz"), path("d/a.txt")));
  write_text_file(scratch_ / "d/[1]*.txt", "a name of its own");
  EXPECT_THAT(find_corpus_inputs({path("d/[1]*.txt")}).files, ElementsAre(path("d/[1]*.txt")));
}

TEST_F(Inputs, what_is_not_there_is_named) {
  for (const char* name : {"d/none.txt", "d/*.json", "d/README.md", "d/*.md", "none"}) {
    try {
      find_corpus_inputs({path(name)});
      FAIL() << name;
    } catch (const UsageError& e) {
      EXPECT_THAT(e.what(), HasSubstr(path(name)));
    }
  }
}

TEST_F(Inputs, a_list_has_a_name_a_line) {
  write_text_file(scratch_ / "list", "# files\n" + path("d/a.txt") + "\r\n\n" + path("d/sub") + "\n");
  EXPECT_THAT(read_input_list(scratch_ / "list"), ElementsAre(path("d/a.txt"), path("d/sub")));
  write_text_file(scratch_ / "list", "\n");
  EXPECT_THROW(read_input_list(scratch_ / "list"), UsageError);
  EXPECT_THROW(read_input_list(scratch_ / "none"), FileError);
}

TEST_F(Inputs, shards_are_the_whole_in_order_and_even) {
  std::vector<fs::path> files;
  for (size_t i = 0; i < 40; ++i) {
    files.push_back(path("f" + std::to_string(i) + ".txt"));
    write_text_file(files.back(), std::string(i == 11 ? 40'000 : 1000 + i * 37 % 900, 'x'));
  }
  for (const size_t count : {1u, 2u, 3u, 7u, 39u, 40u}) {
    std::vector<fs::path> joined;
    for (size_t i = 0; i < count; ++i) {
      const auto part = corpus_shard(files, std::to_string(i) + "/" + std::to_string(count));
      EXPECT_FALSE(part.empty());
      joined.insert(joined.end(), part.begin(), part.end());
      size_t bytes = 0;
      for (const auto& file : part) bytes += fs::file_size(file);
      if (count == 2) {
        EXPECT_NEAR(static_cast<double>(bytes), 49'000, 21'000);
      }
    }
    EXPECT_EQ(joined, files) << count;
  }
  for (const char* bad : {"2/2", "-1/2", "1", "a/b", "1/2/3", "0/0", "", "0/41"})
    EXPECT_THROW(corpus_shard(files, bad), UsageError) << bad;
}

}  // namespace
}  // namespace fathom::data

#include "data/builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "data/corpus.h"
#include "formats/indexed_dataset.h"
#include "support/scratch.h"

namespace fathom::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::filesystem::path kAssets = FATHOM_SOURCE_DIR "/assets";

const tokenizer::Tokenizer& v3() {
  static const auto tokenizer = tokenizer::Tokenizer::load(kAssets / "tokenizer");
  return tokenizer;
}

std::vector<std::string> documents_of(const std::vector<std::filesystem::path>& inputs) {
  CorpusReader reader(inputs);
  std::vector<std::string> texts;
  while (auto document = reader.next()) texts.push_back(document_text(*document, inputs, "text"));
  return texts;
}

TEST(Corpus, wikitext_articles_begin_at_headings_between_blank_lines) {
  const test::ScratchDirectory scratch;
  const std::string text =
      " \n = One = \n \n text \n = 3 = \n not a heading \n \n = = Section = = \n \n more \n \n = Two = \n \n "
      "end \n";
  write_text_file(scratch / "a.tokens", text);
  EXPECT_THAT(documents_of({scratch / "a.tokens"}),
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
  EXPECT_THAT(documents_of({scratch / "a.txt", scratch / "b.txt", scratch / "c.jsonl"}),
              ElementsAre("one\n\ntwo", "x\ny", "\u00e9\U0001F600"));
  EXPECT_THROW(CorpusReader({scratch / "a.csv"}), UsageError);
  EXPECT_THROW(CorpusReader({scratch / "a.csv.gz"}), UsageError);
}

class DataBuild : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.tokenizer = kAssets / "tokenizer";
    options_.output_prefix = scratch_ / "out";
  }
  std::filesystem::path put(const std::string& name, const std::string& content) {
    write_text_file(scratch_ / name, content);
    return scratch_ / name;
  }
  std::string error() {
    try {
      build_dataset(options_);
      return "";
    } catch (const DataError& e) {
      return e.what();
    }
  }
  std::vector<std::vector<int32_t>> sequences(const std::string& name = "out") {
    const formats::IndexedDataset dataset(scratch_ / name);
    std::vector<std::vector<int32_t>> result;
    for (int64_t i = 0; i < dataset.num_sequences(); ++i) {
      result.emplace_back(static_cast<size_t>(dataset.sequence_length(i)));
      dataset.read(i, 0, dataset.sequence_length(i), result.back().data());
    }
    return result;
  }
  std::string bytes(const std::string& name) { return read_text_file(scratch_ / name); }

  test::ScratchDirectory scratch_;
  BuildOptions options_;
};

TEST_F(DataBuild, wikitext_2_gives_the_bytes_of_megatron_core) {
  // The pair that megatron-core 0.16.1's builder wrote from HF tokenizers' ids of the same file: xxHash64 of
  // its files.
  options_.inputs = {kAssets / "wikitext-2/wiki.valid.tokens.zst"};
  options_.append_eod = true;
  const BuildReport report = build_dataset(options_);
  ASSERT_EQ(report.outputs.size(), 1u);
  EXPECT_EQ(report.outputs[0].documents, 60);
  EXPECT_EQ(report.outputs[0].sequences, 2461);
  EXPECT_EQ(report.outputs[0].tokens, 262092);
  const auto hash = [&](const std::string& text) {
    return fmt::format("{:016x}", XXH64(text.data(), text.size(), 0));
  };
  EXPECT_EQ(hash(bytes("out.bin")), "edc94459dca6afe5");
  EXPECT_EQ(hash(bytes("out.idx")), "aa0b290987e4893b");
  const auto metadata = read_dataset_metadata(scratch_ / "out");
  ASSERT_TRUE(metadata);
  EXPECT_EQ(metadata->eod_id, 1);
  EXPECT_TRUE(metadata->append_eod);
  EXPECT_EQ(metadata->vocab_size, v3().vocab_size());
  EXPECT_FALSE(read_dataset_metadata(scratch_ / "other"));
}

TEST_F(DataBuild, wikitext_2_has_600_training_articles) {
  CorpusReader reader({kAssets / "wikitext-2/wiki.train.tokens.zst"});
  int64_t articles = 0;
  size_t bytes = 0;
  while (const auto document = reader.next()) {
    EXPECT_TRUE(is_article_heading(std::string_view(document->text).substr(0, document->text.find('\n'))));
    ++articles;
    bytes += document->text.size();
  }
  EXPECT_EQ(articles, 600);
  EXPECT_EQ(bytes, 10797148u - 2) << "everything but the blank line before the first article";
}

TEST_F(DataBuild, the_result_does_not_depend_on_workers_or_compression) {
  std::string lines;
  for (int i = 0; i < 3000; ++i)
    lines += Json({{"text", "document " + std::to_string(i) +
                                std::string(static_cast<size_t>(i % 300), 'a' + i % 26)}})
                 .dump() +
             "\n";
  options_.inputs = {put("a.jsonl", lines)};
  std::string first;
  for (const int workers : {1, 2, 8}) {
    set_num_threads(workers);
    build_dataset(options_);
    const std::string now = bytes("out.bin") + bytes("out.idx") + bytes("out.meta.json");
    if (first.empty()) first = now;
    EXPECT_TRUE(now == first) << workers;
  }
  set_num_threads(0);
}

TEST_F(DataBuild, DATA_3_many_one_word_documents_take_bounded_memory) {
  std::string lines;
  for (int i = 0; i < 300'000; ++i) lines += "{\"text\":\"word\"}\n";
  options_.inputs = {put("a.jsonl", lines)};
  v3();
  const uint64_t before = anonymous_resident_bytes();
  const BuildReport report = build_dataset(options_);
  EXPECT_EQ(report.outputs[0].documents, 300'000);
  EXPECT_LT(anonymous_resident_bytes(), before + (uint64_t{128} << 20));
}

TEST_F(DataBuild, sequences_are_documents_or_lines) {
  options_.inputs = {put("a.txt", "one\n \ntwo\r\n"), put("b.jsonl", "{\"text\":\"three\\n\\nfour\"}\n")};
  build_dataset(options_);
  EXPECT_THAT(sequences(), ElementsAre(v3().encode("one\n \ntwo\r\n"), v3().encode("three\n\nfour")));
  options_.sequences = SequenceUnit::line;
  options_.append_eod = true;
  build_dataset(options_);
  auto two = v3().encode("two"), four = v3().encode("four");
  two.push_back(1);
  four.push_back(1);
  EXPECT_THAT(sequences(), ElementsAre(v3().encode("one"), two, v3().encode("three"), four));
  EXPECT_EQ(formats::IndexedDataset(scratch_ / "out").num_documents(), 2);
}

TEST_F(DataBuild, long_sequences_are_cut_on_request) {
  options_.inputs = {put("a.txt", "a b c d e f g")};
  options_.append_eod = true;
  options_.seq_length = 3;
  build_dataset(options_);
  std::vector<size_t> lengths;
  for (const auto& sequence : sequences()) lengths.push_back(sequence.size());
  EXPECT_THAT(lengths, ElementsAre(3, 3, 2));
  EXPECT_EQ(formats::IndexedDataset(scratch_ / "out").num_documents(), 1);
}

TEST_F(DataBuild, no_beginning_mark_and_no_forged_tokens) {
  // WikiText's and Llama's way of a BOS a paragraph is not ours; literal special tokens stay text unless
  // asked.
  const std::string text =
      "hi <\xef\xbd\x9c"
      "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>";
  options_.inputs = {put("a.txt", text)};
  build_dataset(options_);
  const auto plain = sequences();
  for (const int32_t id : plain[0]) EXPECT_GT(id, 1);
  options_.special_tokens = tokenizer::SpecialTokens::encode;
  build_dataset(options_);
  EXPECT_EQ(sequences()[0].back(), 1);
  EXPECT_NE(sequences()[0].front(), 0);
}

TEST_F(DataBuild, split_cuts_by_documents) {
  std::string lines;
  for (int i = 0; i < 10; ++i) lines += "{\"text\":\"d" + std::to_string(i) + "\"}\n";
  options_.inputs = {put("a.jsonl", lines)};
  options_.split = "80,20";
  const BuildReport report = build_dataset(options_);
  ASSERT_EQ(report.outputs.size(), 2u);
  EXPECT_EQ(report.outputs[0].documents, 8);
  EXPECT_EQ(sequences("out_valid"), (std::vector{v3().encode("d8"), v3().encode("d9")}));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(scratch_.path()), {}), 7)
      << "files were left behind";
  options_.split = "nonsense";
  EXPECT_THROW(build_dataset(options_), ConfigError);
}

TEST_F(DataBuild, bad_input_is_named_and_nothing_is_written) {
  const auto expect = [&](const std::string& name, const std::string& content, const std::string& message) {
    options_.inputs = {put(name, content)};
    EXPECT_THAT(error(), HasSubstr((scratch_ / name).string() + message));
  };
  const std::string good = "{\"text\":\"a\"}\n";
  expect("a.jsonl", good + "{\"text\":", ": line 2 (byte 13): not valid JSON at byte");
  expect("a.jsonl", good + "[1]\n", ": line 2 (byte 13): the line is no JSON object");
  expect("a.jsonl", good + good + "{\"txt\":\"a\"}\n",
         ": line 3 (byte 26): no key \"text\" (did you mean \"txt\"?): name the key with --json-key");
  expect("a.jsonl", good + "{\"text\":5}\n", ": line 2 (byte 13): \"text\" is no string");
  expect("a.jsonl", good + "{\"text\":\"\xff\"}\n", ": line 2 (byte 22): byte 0xff is not valid UTF-8");
  expect("a.txt", "one\ntwo \xc3(\n", ": line 2 (byte 8): byte 0xc3 is not valid UTF-8");
  expect("a.txt", "", "");
  EXPECT_THAT(error(), HasSubstr("no document in"));
  options_.inputs = {scratch_ / "missing.txt"};
  EXPECT_THROW(build_dataset(options_), FileError);
  for (const auto& entry : std::filesystem::directory_iterator(scratch_.path()))
    EXPECT_TRUE(entry.path().filename().string().starts_with("a.")) << entry.path();
}

TEST_F(DataBuild, a_failed_build_leaves_the_older_dataset_alone) {
  options_.inputs = {put("a.jsonl", "{\"text\":\"a\"}\n")};
  build_dataset(options_);
  const std::string before = bytes("out.bin") + bytes("out.idx") + bytes("out.meta.json");
  options_.inputs = {put("b.jsonl", "{\"text\":\"b\"}\n{\n")};
  EXPECT_NE(error(), "");
  EXPECT_EQ(bytes("out.bin") + bytes("out.idx") + bytes("out.meta.json"), before);
}

TEST_F(DataBuild, bad_documents_can_be_skipped) {
  options_.inputs = {
      put("a.jsonl", "{\"text\":\"a\"}\n{\n{\"text\":\"\xff\"}\n{\"text\":\"\"}\n{\"text\":\"b\"}\n")};
  options_.skip_bad = true;
  EXPECT_EQ(build_dataset(options_).skipped_documents, 2);
  EXPECT_THAT(sequences(), ElementsAre(v3().encode("a"), v3().encode("b")));
}

TEST_F(DataBuild, an_end_mark_needs_a_tokenizer_that_has_one) {
  std::filesystem::create_directory(scratch_ / "tokenizer");
  std::filesystem::copy_file(kAssets / "tokenizer/tokenizer.json", scratch_ / "tokenizer/tokenizer.json");
  options_.tokenizer = scratch_ / "tokenizer";
  options_.inputs = {put("a.txt", "a")};
  options_.append_eod = true;
  EXPECT_THROW(build_dataset(options_), ConfigError);
  options_.append_eod = false;
  build_dataset(options_);
  EXPECT_EQ(read_dataset_metadata(scratch_ / "out")->eod_id, -1);
}

}  // namespace
}  // namespace fathom::data

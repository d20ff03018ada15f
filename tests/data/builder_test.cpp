#include "data/builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <zstd.h>

#include <functional>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/directory_lock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "base/random.h"
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

TEST_F(DataBuild, the_result_does_not_depend_on_workers_or_compression) {
  std::string lines;
  for (int i = 0; i < 3000; ++i)
    lines += Json({{"text", "document " + std::to_string(i) +
                                std::string(static_cast<size_t>(i % 300), 'a' + i % 26)}})
                 .dump() +
             "\n";
  options_.inputs = {put("a.jsonl", lines)};
  std::string first;
  for (const int workers : {1, 2, 3, 5}) {
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

TEST_F(DataBuild, MF_seq_length_gives_pieces_of_one_token_more_across_documents) {
  // wikitext_to_bin.py --seq-length L: all tokens end to end, pieces of L + 1, each one document; the tail goes.
  options_.inputs = {put("a.jsonl", "{\"text\":\"a b c d e\"}\n{\"text\":\"f g\"}\n{\"text\":\"h\"}\n")};
  options_.append_eod = true;
  std::vector<int32_t> all;
  for (const char* text : {"a b c d e", "f g", "h"}) {
    const auto ids = v3().encode(text);
    all.insert(all.end(), ids.begin(), ids.end());
    all.push_back(1);
  }
  ASSERT_EQ(all.size(), 11u);
  options_.seq_length = 3;
  const BuildReport report = build_dataset(options_);
  EXPECT_THAT(sequences(), ElementsAre(std::vector(all.begin(), all.begin() + 4),
                                       std::vector(all.begin() + 4, all.begin() + 8)));
  EXPECT_EQ(formats::IndexedDataset(scratch_ / "out").num_documents(), 2);
  EXPECT_EQ(report.dropped_tokens, 3);
  options_.seq_length = 11;
  EXPECT_THAT(error(), HasSubstr("11 tokens are not enough"));
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
    if (message.empty()) return;
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
  expect("a.jsonl", good + "{\"text\":\"a\",\"text\":\"b\"}\n",
         ": line 2 (byte 13): the key \"text\" stands twice");
  expect("a.jsonl", good + "{\"text\":\"a\\u0000\"}\n", ": line 2 (byte 13): a NUL character");
  expect("a.txt", std::string("one\n\0\n", 6), ": line 2 (byte 4): a NUL character");
  expect("a.txt", "\xff\xfeo\0",
         ": line 1 (byte 0): byte 0xff is not valid UTF-8 (the file looks like UTF-16)");
  expect("a.txt", "", "");
  EXPECT_THAT(error(), HasSubstr("no document in"));
  options_.inputs = {scratch_ / "missing.txt"};
  EXPECT_THROW(build_dataset(options_), UsageError);
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

TEST_F(DataBuild, a_byte_order_mark_goes_and_carriage_returns_stay) {
  options_.inputs = {put("a.txt", "\xef\xbb\xbfone\r\ntwo"),
                     put("b.jsonl", "\xef\xbb\xbf{\"text\":\"x\"}\r\n")};
  build_dataset(options_);
  EXPECT_THAT(sequences(), ElementsAre(v3().encode("one\r\ntwo"), v3().encode("x")));
}

TEST_F(DataBuild, MF_8_11_documents_end_with_the_end_token_of_the_tokenizer) {
  // MindFormers: no end mark between documents, --append-eod crashed, and the ids in its recipes (100001) are
  // ordinary tokens of V3.
  options_.inputs = {put("a.jsonl", "{\"text\":\"a\"}\n{\"text\":\"b\"}\n")};
  options_.append_eod = true;
  build_dataset(options_);
  for (const auto& sequence : sequences()) {
    EXPECT_EQ(sequence.back(), v3().eos_id());
    EXPECT_EQ(std::count(sequence.begin(), sequence.end(), 1), 1);
    EXPECT_NE(sequence.front(), v3().bos_id());
  }
  EXPECT_EQ(sequences().size(), 2u);
}

TEST_F(DataBuild, MF_31_the_text_is_not_cleaned) {
  // MindFormers' builder rewrites every text as if it were WikiText: " @-@ " and spaced punctuation.
  const std::string text = " = Title = \n \n a @-@ b , c . \n";
  options_.inputs = {put("a.txt", text)};
  build_dataset(options_);
  EXPECT_THAT(sequences(), ElementsAre(v3().encode(text)));
}

// Text with everything that decides where the pre-tokenizer ends a piece.
std::string mixed_text(size_t bytes, uint64_t seed) {
  static const std::string kWords[] = {
      "the",  " city", " 1234567",       "\n",     "\n\n",       "  ",           " don't", ", ",
      ".\n",  "\r\n",  "\u4f60\u597d",   "\uff0c", "\u3002",     "\u4e16\u754c", "x",      "42",
      " (a)", "\t",    " \u00e9t\u00e9", "\u0301", "\U0001F600", "==",           " B",     "\u00a0",
      "9"};
  std::string text;
  for (uint64_t draw = 0; text.size() < bytes; ++draw)
    text += kWords[static_cast<size_t>(uniform(seed, draw) * std::size(kWords))];
  return text;
}

TEST_F(DataBuild, long_documents_in_parts_have_the_ids_of_the_whole) {
  const std::string text = mixed_text(3'000'000, 1);
  options_.inputs = {put("a.txt", text)};
  build_dataset(options_);
  const auto whole = v3().encode(text);
  EXPECT_TRUE(sequences() == (std::vector<std::vector<int32_t>>{whole}));
  const std::string from_text = bytes("out.bin") + bytes("out.idx");
  options_.inputs = {put("a.jsonl", Json({{"id", 5}, {"text", text}, {"more", {1, 2}}}).dump() + "\n")};
  build_dataset(options_);
  EXPECT_TRUE(bytes("out.bin") + bytes("out.idx") == from_text) << "one line of JSON";
  options_.inputs = {put("a.tokens", text)};
  options_.sequences = SequenceUnit::document;
  build_dataset(options_);
  EXPECT_TRUE(bytes("out.bin") + bytes("out.idx") == from_text) << "WikiText without headings";
}

TEST_F(DataBuild, long_documents_in_parts_with_the_pattern_of_kimi) {
  options_.tokenizer = FATHOM_SOURCE_DIR "/tests/tokenizer/data/kimi";
  const auto kimi = tokenizer::Tokenizer::load(options_.tokenizer);
  for (uint64_t seed = 7; seed < 10; ++seed) {
    const std::string text = mixed_text(1'000'000, seed);
    options_.inputs = {put("a.txt", text)};
    build_dataset(options_);
    EXPECT_TRUE(sequences() == (std::vector<std::vector<int32_t>>{kimi.encode(text)})) << seed;
  }
  EXPECT_EQ(formats::IndexedDataset(scratch_ / "out").type(), formats::TokenType::uint16);
}

TEST_F(DataBuild, long_lines_in_parts_are_the_lines_of_the_whole) {
  std::string text = mixed_text(1'500'000, 2);
  for (size_t at = 300'000; at < 900'000; ++at)
    if (text[at] == '\n') text[at] = ' ';  // one line of 600 kB
  options_.inputs = {put("a.txt", text)};
  options_.sequences = SequenceUnit::line;
  options_.append_eod = true;
  build_dataset(options_);
  std::vector<std::vector<int32_t>> expected;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (line.ends_with('\r')) line.pop_back();
    if (line.find_first_not_of(" \t\r\f\v") != std::string::npos) expected.push_back(v3().encode(line));
    at = end + 1;
  }
  expected.back().push_back(1);
  EXPECT_TRUE(sequences() == expected);
  EXPECT_EQ(formats::IndexedDataset(scratch_ / "out").num_documents(), 1);
}

TEST_F(DataBuild, text_that_cannot_be_cut_is_refused_by_its_limit) {
  const std::string good = "{\"text\":\"a\"}\n", bad = "{\"text\":\"" + std::string(3 << 20, '-') + "\"}\n";
  options_.inputs = {put("a.jsonl", good + bad + good)};
  EXPECT_THAT(error(), HasSubstr("a.jsonl: line 2 (byte 13): "));
  EXPECT_THAT(error(), HasSubstr("the limit is 1 MiB"));
  options_.skip_bad = true;
  const BuildReport report = build_dataset(options_);
  EXPECT_EQ(report.skipped_documents, 1);
  EXPECT_THAT(sequences(), ElementsAre(v3().encode("a"), v3().encode("a")));
}

TEST_F(DataBuild, a_long_document_with_an_error_far_inside_leaves_nothing) {
  std::string text = mixed_text(1'200'000, 3);
  text += "\xff" + mixed_text(600'000, 4);
  std::string lines = "{\"text\":\"a\"}\n{\"text\":\"" + std::string(700'000, ' ') + "word\", \"b\": tru}\n";
  options_.inputs = {put("a.jsonl", lines), put("b.txt", text), put("c.jsonl", "{\"text\":\"c\"}\n")};
  options_.skip_bad = true;
  for (const int64_t length : {0, 1}) {
    options_.seq_length = length;
    const BuildReport report = build_dataset(options_);
    EXPECT_EQ(report.skipped_documents, 2);
    EXPECT_THAT(report.errors[1], HasSubstr("b.txt: line "));
    EXPECT_THAT(report.errors[1], HasSubstr("(byte 1200"));
    const auto a = v3().encode("a"), c = v3().encode("c");
    if (length == 0) {
      EXPECT_THAT(sequences(), ElementsAre(a, c));
    } else {
      EXPECT_THAT(sequences(), ElementsAre(std::vector{a[0], c[0]}));
    }
  }
}

TEST_F(DataBuild, what_is_done_is_kept_when_a_build_breaks_off) {
  const auto inputs = [&] {
    return std::vector{put("a.txt", mixed_text(900'000, 5)), put("b.jsonl", "{\"text\":\"b\"}\n"),
                       put("c.jsonl", "{\"text\":\"" + mixed_text(0, 1) + "c\"}\n{\n{\"text\":\"d\"}\n")};
  };
  options_.inputs = inputs();
  options_.append_eod = true;
  options_.save_every_seconds = 0;
  options_.skip_bad = true;
  build_dataset(options_);
  const std::string expected = bytes("out.bin") + bytes("out.idx") + bytes("out.meta.json");
  std::filesystem::remove(scratch_ / "out.idx");

  options_.skip_bad = false;
  EXPECT_THAT(error(), HasSubstr("c.jsonl: line 2"));
  EXPECT_TRUE(std::filesystem::exists(scratch_ / "out.build/journal.json"));
  EXPECT_FALSE(std::filesystem::exists(scratch_ / "out.idx")) << "nothing under the final name";
  options_.skip_bad = true;
  BuildReport report = build_dataset(options_);
  EXPECT_GE(report.resumed_text_bytes, 250'000u);
  EXPECT_EQ(report.skipped_documents, 1);
  EXPECT_TRUE(bytes("out.bin") + bytes("out.idx") + bytes("out.meta.json") == expected);
  EXPECT_FALSE(std::filesystem::exists(scratch_ / "out.build"));

  // Whatever decides the bytes starts it afresh.
  const auto broken = [&] {
    BuildOptions before = options_;
    options_.skip_bad = false;
    EXPECT_NE(error(), "");
    options_ = before;
  };
  const std::vector<std::function<void()>> changes = {
      [&] { options_.append_eod = false; },
      [&] { options_.seq_length = 7; },
      [&] { options_.sequences = SequenceUnit::line; },
      [&] { options_.special_tokens = tokenizer::SpecialTokens::encode; },
      [&] { options_.inputs.erase(options_.inputs.begin() + 1); },
      [&] { put("a.txt", mixed_text(900'000, 6)); },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    broken();
    changes[i]();
    EXPECT_EQ(build_dataset(options_).resumed_text_bytes, 0u) << i;
  }
  broken();
  write_text_file(scratch_ / "out.build/journal.json", "{\"made_from\": 5");
  EXPECT_EQ(build_dataset(options_).resumed_text_bytes, 0u) << "a damaged journal";
  broken();
  std::filesystem::resize_file(scratch_ / "out.build/tokens", 10);
  EXPECT_EQ(build_dataset(options_).resumed_text_bytes, 0u) << "files that do not fit the journal";
}

TEST_F(DataBuild, two_builds_of_one_name_do_not_mix) {
  options_.inputs = {put("a.txt", "a")};
  make_directories(scratch_ / "out.build");
  {
    const DirectoryLock lock(scratch_ / "out.build", "tests");
    EXPECT_THROW(build_dataset(options_), FileError);
  }
  build_dataset(options_);
}

TEST_F(DataBuild, a_truncated_file_keeps_the_documents_before) {
  std::string lines;
  for (int i = 0; i < 20'000; ++i) lines += Json({{"text", std::to_string(i * 2654435761u)}}).dump() + "\n";
  std::string packed(ZSTD_compressBound(lines.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), lines.data(), lines.size(), 3));
  options_.inputs = {put("a.jsonl.zst", packed.substr(0, packed.size() - 5)),
                     put("b.jsonl", "{\"text\":\"b\"}\n")};
  EXPECT_THAT(error(), HasSubstr("a.jsonl.zst: not readable as zstd near byte"));
  EXPECT_THAT(error(), HasSubstr("truncated"));
  options_.skip_bad = true;
  const BuildReport report = build_dataset(options_);
  EXPECT_EQ(report.skipped_documents, 1);
  const auto got = sequences();
  ASSERT_GT(got.size(), 2u);
  for (size_t i = 0; i + 1 < got.size(); ++i)
    ASSERT_EQ(got[i], v3().encode(std::to_string(static_cast<int>(i) * 2654435761u)));
  EXPECT_EQ(got.back(), v3().encode("b"));
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

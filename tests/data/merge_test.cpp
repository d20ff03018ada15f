#include "data/merge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <random>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "formats/indexed_dataset.h"
#include "support/scratch.h"

namespace fathom::data {
namespace {

using formats::IndexedDataset;
using formats::IndexedDatasetWriter;
using formats::TokenType;
using ::testing::HasSubstr;

using Document = std::vector<std::vector<int32_t>>;

// Empty documents and empty sequences among them.
std::vector<Document> documents(int count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<Document> result(static_cast<size_t>(count));
  for (Document& document : result) {
    document.resize(random() % 4);
    for (auto& sequence : document) {
      sequence.resize(random() % 9);
      for (int32_t& token : sequence) token = static_cast<int32_t>(random() % 60000);
    }
  }
  return result;
}

std::filesystem::path write(const std::filesystem::path& prefix, std::span<const Document> documents,
                            TokenType type = TokenType::uint16) {
  IndexedDatasetWriter writer(prefix, type);
  for (const Document& document : documents) {
    for (const auto& sequence : document) writer.add_sequence(sequence);
    writer.end_document();
  }
  writer.commit();
  return prefix;
}

std::vector<Document> read(const std::filesystem::path& prefix) {
  const IndexedDataset dataset(prefix);
  std::vector<Document> result(static_cast<size_t>(dataset.num_documents()));
  for (int64_t d = 0; d < dataset.num_documents(); ++d)
    for (int64_t s = dataset.document_begin(d); s < dataset.document_begin(d + 1); ++s) {
      std::vector<int32_t> tokens(static_cast<size_t>(dataset.sequence_length(s)));
      dataset.read(s, 0, dataset.sequence_length(s), tokens.data());
      result[static_cast<size_t>(d)].push_back(tokens);
    }
  return result;
}

void expect_same_files(const std::filesystem::path& a, const std::filesystem::path& b) {
  for (const char* extension : {".bin", ".idx"})
    EXPECT_TRUE(read_text_file(a.string() + extension) == read_text_file(b.string() + extension))
        << extension;
}

void write_meta(const std::filesystem::path& prefix, const std::string& tokenizer, const std::string& input) {
  write_text_file(prefix.string() + ".meta.json", Json({{"format", 1},
                                                        {"tokenizer", "some/dir"},
                                                        {"tokenizer_fingerprint", tokenizer},
                                                        {"vocab_size", 100},
                                                        {"eod_id", 1},
                                                        {"append_eod", true},
                                                        {"documents", 5},
                                                        {"skipped_documents", 2},
                                                        {"only_here", input},
                                                        {"inputs", Json::array({input})}})
                                                      .dump());
}

std::string refusal(const MergeOptions& options) {
  try {
    merge_datasets(options);
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(Merge, DATA_3_four_shards_are_the_bytes_of_one_build) {
  const test::ScratchDirectory scratch;
  const auto all = documents(1000, 1);
  write(scratch / "whole", all);
  MergeOptions options{.output_prefix = scratch / "merged"};
  const size_t cuts[] = {0, 1, 1, 700, 1000};  // one of the shards has no document
  for (int shard = 0; shard < 4; ++shard)
    options.inputs.push_back(write(scratch / ("shard" + std::to_string(shard)),
                                   std::span(all).subspan(cuts[shard], cuts[shard + 1] - cuts[shard])));
  const MergeReport report = merge_datasets(options);
  expect_same_files(scratch / "merged", scratch / "whole");
  ASSERT_EQ(report.outputs.size(), 1u);
  EXPECT_EQ(report.outputs[0].documents, 1000);
  EXPECT_EQ(report.outputs[0].bytes, std::filesystem::file_size(scratch / "whole.bin") +
                                         std::filesystem::file_size(scratch / "whole.idx"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "merged.meta.json"));
}

// A number that no process has: that of a child that has ended and been waited for.
pid_t ended_process() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  return child;
}

TEST(Merge, what_a_killed_merge_left_goes) {
  const test::ScratchDirectory scratch;
  const std::string dead = std::to_string(ended_process()), alive = std::to_string(::getppid());
  const auto put = [&](const std::string& name) { write_text_file(scratch / name, "half"); };
  const std::vector<std::string> of_dead = {"merged.bin.tmp-" + dead, "merged.idx.tmp-" + dead,
                                            "merged.meta.json.tmp-" + dead};
  const std::vector<std::string> of_others = {"merged.bin.tmp-" + alive, "other.bin.tmp-" + dead,
                                              "merged.bin.tmp-" + dead + "x", "merged_train.bin.tmp-" + dead};
  for (const auto& name : of_dead) put(name);
  for (const auto& name : of_others) put(name);
  MergeOptions options{.inputs = {write(scratch / "a", documents(3, 1))},
                       .output_prefix = scratch / "merged"};
  merge_datasets(options);
  for (const auto& name : of_dead) EXPECT_FALSE(std::filesystem::exists(scratch / name)) << name;
  for (const auto& name : of_others) EXPECT_TRUE(std::filesystem::exists(scratch / name)) << name;
  options.split = "1,1,1";
  merge_datasets(options);
  EXPECT_FALSE(std::filesystem::exists(scratch / of_others.back()));
}

TEST(Merge, modes_are_joined_and_do_not_mix_with_none) {
  const test::ScratchDirectory scratch;
  const std::filesystem::path multimodal = FATHOM_SOURCE_DIR "/tests/formats/data/int64_multimodal";
  merge_datasets({.inputs = {multimodal, multimodal}, .output_prefix = scratch / "twice"});
  const IndexedDataset twice(scratch / "twice");
  ASSERT_TRUE(twice.has_modes());
  std::vector<int> modes;
  for (int64_t i = 0; i < twice.num_sequences(); ++i) modes.push_back(twice.sequence_mode(i));
  EXPECT_EQ(modes, (std::vector<int>{0, 1, 0, 0, 1, 0}));
  const auto plain = write(scratch / "plain", documents(9, 2), TokenType::int64);
  EXPECT_THAT(refusal({.inputs = {plain, multimodal}, .output_prefix = scratch / "x"}),
              HasSubstr("multimodal"));
  EXPECT_THAT(refusal({.inputs = {multimodal}, .output_prefix = scratch / "x", .shuffle_seed = 1}),
              HasSubstr("multimodal"));
}

TEST(Merge, metadata_are_joined) {
  const test::ScratchDirectory scratch;
  const auto a = write(scratch / "a", documents(5, 1)), b = write(scratch / "b", documents(5, 2));
  write_meta(a, "f00", "a.txt");
  write_meta(b, "f00", "b.txt");
  merge_datasets({.inputs = {a, b}, .output_prefix = scratch / "ab"});
  const Json meta = read_json_file(scratch / "ab.meta.json");
  EXPECT_EQ(meta["documents"], 10);
  EXPECT_EQ(meta["skipped_documents"], 4);
  EXPECT_EQ(meta["inputs"], Json::array({"a.txt", "b.txt"}));
  EXPECT_EQ(meta["tokenizer_fingerprint"], "f00");
  EXPECT_FALSE(meta.contains("only_here")) << "it differs between the two";
}

TEST(Merge, what_does_not_fit_is_refused_by_name_and_nothing_is_written) {
  const test::ScratchDirectory scratch;
  const auto a = write(scratch / "a", documents(5, 1)), b = write(scratch / "b", documents(5, 2)),
             wide = write(scratch / "wide", documents(5, 3), TokenType::int32);
  const auto out = scratch / "out";
  EXPECT_THAT(refusal({.inputs = {a, wide}, .output_prefix = out}), HasSubstr("wide.bin int32"));
  write_meta(a, "f00", "a.txt");
  EXPECT_THAT(refusal({.inputs = {a, b}, .output_prefix = out}), HasSubstr("b.meta.json is missing"));
  write_meta(b, "0ba", "b.txt");
  EXPECT_THAT(refusal({.inputs = {a, b}, .output_prefix = out}), HasSubstr("tokenizer_fingerprint \"f00\""));
  EXPECT_THAT(refusal({.inputs = {a}, .output_prefix = a}), HasSubstr("one of the inputs"));
  EXPECT_THAT(refusal({.inputs = {}, .output_prefix = out}), HasSubstr("at least one"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "out.bin"));
  EXPECT_EQ(refusal({.inputs = {a, b}, .output_prefix = out, .any_tokenizer = true}), "");
  EXPECT_FALSE(std::filesystem::exists(scratch / "out.meta.json"));
  for (const auto& entry : std::filesystem::directory_iterator(scratch.path()))
    EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
}

TEST(Merge, shuffled_documents_are_the_same_documents_in_an_order_of_the_seed) {
  const test::ScratchDirectory scratch;
  const auto first = documents(300, 1), second = documents(200, 2);
  const auto a = write(scratch / "a", first), b = write(scratch / "b", second);
  merge_datasets({.inputs = {a, b}, .output_prefix = scratch / "s7", .shuffle_seed = 7});
  merge_datasets({.inputs = {a, b}, .output_prefix = scratch / "again", .shuffle_seed = 7});
  merge_datasets({.inputs = {a, b}, .output_prefix = scratch / "s8", .shuffle_seed = 8});
  expect_same_files(scratch / "s7", scratch / "again");
  auto all = first;
  all.insert(all.end(), second.begin(), second.end());
  auto shuffled = read(scratch / "s7");
  EXPECT_NE(shuffled, all);
  EXPECT_NE(shuffled, read(scratch / "s8"));
  std::sort(all.begin(), all.end());
  std::sort(shuffled.begin(), shuffled.end());
  EXPECT_EQ(shuffled, all);
}

TEST(Merge, a_split_cuts_by_documents_and_leaves_out_empty_parts) {
  const test::ScratchDirectory scratch;
  const auto all = documents(100, 4);
  const auto a = write(scratch / "a", all);
  write_meta(a, "f00", "a.txt");
  const MergeReport report =
      merge_datasets({.inputs = {a}, .output_prefix = scratch / "cut", .split = "90,10"});
  ASSERT_EQ(report.outputs.size(), 2u);
  auto joined = read(scratch / "cut_train");
  EXPECT_EQ(joined.size(), 90u);
  for (const Document& document : read(scratch / "cut_valid")) joined.push_back(document);
  EXPECT_EQ(joined, all);
  EXPECT_FALSE(std::filesystem::exists(scratch / "cut_test.bin"));
  EXPECT_EQ(read_json_file(scratch / "cut_valid.meta.json")["documents"], 10);
  EXPECT_EQ(report.outputs[0].bytes, std::filesystem::file_size(scratch / "cut_train.bin") +
                                         std::filesystem::file_size(scratch / "cut_train.idx"));
}

}  // namespace
}  // namespace fathom::data

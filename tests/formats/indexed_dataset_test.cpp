#include "formats/indexed_dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "support/scratch.h"

namespace fathom::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::filesystem::path kData = FATHOM_SOURCE_DIR "/tests/formats/data";
const char* const kPairs[] = {"ag_news_prompt_targets_document", "wikitext2_cut_text_document",
                              "uint16_with_empty_documents", "empty"};

std::vector<int32_t> sequence(const IndexedDataset& dataset, int64_t index) {
  std::vector<int32_t> tokens(static_cast<size_t>(dataset.sequence_length(index)));
  dataset.read(index, 0, dataset.sequence_length(index), tokens.data());
  return tokens;
}

TEST(IndexedDataset, reads_what_megatron_reads) {
  const Json expected = read_json_file(kData / "expected.json");
  EXPECT_EQ(expected.size(), 5u);
  for (const auto& [name, facts] : expected.items()) {
    SCOPED_TRACE(name);
    const IndexedDataset dataset(kData / name);
    EXPECT_EQ(token_type_name(dataset.type()), facts["type"].get<std::string>());
    EXPECT_EQ(dataset.num_sequences(), facts["sequences"]);
    EXPECT_EQ(dataset.num_documents(), facts["documents"]);
    EXPECT_EQ(dataset.num_tokens(), facts["tokens"]);
    EXPECT_EQ(dataset.has_modes(), name == "int64_multimodal");
    if (dataset.num_sequences() == 0) continue;
    int64_t sum = 0;
    for (int64_t i = 0; i < dataset.num_sequences(); ++i)
      for (const int32_t id : sequence(dataset, i)) sum += id;
    EXPECT_EQ(sum, facts["token_sum"]);
    for (size_t d = 0; d < facts["documents_begin"].size(); ++d)
      EXPECT_EQ(dataset.document_begin(static_cast<int64_t>(d)), facts["documents_begin"][d]);
    auto last = sequence(dataset, dataset.num_sequences() - 1);
    last.resize(std::min<size_t>(last.size(), 12));
    EXPECT_EQ(last, facts["last_sequence"].get<std::vector<int32_t>>());
  }
}

TEST(IndexedDataset, modes_and_partial_reads) {
  const IndexedDataset multimodal(kData / "int64_multimodal.idx");
  EXPECT_EQ(multimodal.sequence_mode(0), 0);
  EXPECT_EQ(multimodal.sequence_mode(1), 1);
  const IndexedDataset dataset(kData / "uint16_with_empty_documents");
  int32_t tokens[2];
  dataset.read(0, 1, 2, tokens);
  EXPECT_THAT(tokens, ElementsAre(65535, 0));
}

void copy(const IndexedDataset& from, IndexedDatasetWriter& to, int64_t first_document,
          int64_t last_document) {
  for (int64_t d = first_document; d < last_document; ++d) {
    for (int64_t i = from.document_begin(d); i < from.document_begin(d + 1); ++i)
      to.add_sequence(sequence(from, i));
    to.end_document();
  }
}

TEST(IndexedDataset, writes_the_bytes_that_megatron_writes) {
  const test::ScratchDirectory scratch;
  for (const char* name : kPairs) {
    SCOPED_TRACE(name);
    const IndexedDataset source(kData / name);
    IndexedDatasetWriter writer(scratch / name, source.type());
    copy(source, writer, 0, source.num_documents());
    EXPECT_FALSE(std::filesystem::exists(scratch / (std::string(name) + ".bin")));
    writer.commit();
    for (const char* extension : {".idx", ".bin"})
      EXPECT_TRUE(read_text_file(scratch / (std::string(name) + extension)) ==
                  read_text_file(kData / (std::string(name) + extension)))
          << extension;
  }
}

std::string unhex(const std::string& text) {
  std::string bytes;
  for (size_t i = 0; i < text.size(); i += 2)
    bytes += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
  return bytes;
}

TEST(IndexedDataset, every_type_is_written_and_read_as_megatron_does) {
  const test::ScratchDirectory scratch;
  const Json expected = read_json_file(kData / "dtypes.json");
  const auto documents = expected["documents"].get<std::vector<std::vector<std::vector<int32_t>>>>();
  EXPECT_EQ(expected["types"].size(), 8u);
  for (const auto& [name, files] : expected["types"].items()) {
    SCOPED_TRACE(name);
    const auto type = static_cast<TokenType>(files["code"].get<int>());
    EXPECT_EQ(token_type_name(type), name);
    IndexedDatasetWriter writer(scratch / name, type);
    for (const auto& document : documents) {
      for (const auto& tokens : document) writer.add_sequence(tokens);
      writer.end_document();
    }
    writer.commit();
    EXPECT_EQ(read_text_file(scratch / (name + ".bin")), unhex(files["bin"]));
    EXPECT_EQ(read_text_file(scratch / (name + ".idx")), unhex(files["idx"]));
    const IndexedDataset dataset(scratch / name);
    ASSERT_EQ(dataset.num_documents(), 5);
    EXPECT_EQ(dataset.sequence_bytes(0).size(), 3u * static_cast<size_t>(token_type_bytes(type)));
    int32_t token = 0;
    if (type == TokenType::float32 || type == TokenType::float64) {
      EXPECT_THROW(dataset.read(0, 0, 1, &token), DataError);
    } else {
      EXPECT_EQ(sequence(dataset, 0), documents[1][0]);
      EXPECT_EQ(sequence(dataset, 3), documents[2][2]);
    }
  }
}

TEST(IndexedDataset, over_4_GiB_are_read_through_the_map) {
  // 2^31 + 5 tokens of uint16 in two sequences; the .bin has holes, its index is written by hand.
  const test::ScratchDirectory scratch;
  constexpr int64_t kFirst = (int64_t{1} << 31) - 1, kSecond = 6;
  {
    AtomicFile idx(scratch / "big.idx");
    write_index_header(idx, TokenType::uint16, 2, 1);
    const int32_t lengths[] = {static_cast<int32_t>(kFirst), kSecond};
    const int64_t pointers[] = {0, 2 * kFirst}, documents[] = {0, 2};
    idx.write(lengths, sizeof lengths);
    idx.write(pointers, sizeof pointers);
    idx.write(documents, sizeof documents);
    idx.commit();
    AtomicFile bin(scratch / "big.bin");
    const uint16_t tail[] = {11, 12, 13, 14, 15, 16, 17, 18};
    bin.write_at(2 * (kFirst + kSecond) - sizeof tail, tail, sizeof tail);
    bin.commit();
  }
  const uint64_t before = anonymous_resident_bytes();
  const IndexedDataset dataset(scratch / "big");
  EXPECT_EQ(dataset.num_tokens(), kFirst + kSecond);
  EXPECT_GT(dataset.sequence_pointer(1) + 4, int64_t{1} << 32);
  EXPECT_THAT(sequence(dataset, 1), ElementsAre(13, 14, 15, 16, 17, 18));
  int32_t last[3];
  dataset.read(0, kFirst - 3, 3, last);
  EXPECT_THAT(last, ElementsAre(0, 11, 12));
  EXPECT_LT(anonymous_resident_bytes(), before + (1 << 20)) << "it was copied";
}

TEST(IndexedDataset, parts_joined_are_the_whole) {
  const test::ScratchDirectory scratch;
  const IndexedDataset source(kData / "ag_news_prompt_targets_document");
  IndexedDatasetWriter joined(scratch / "joined", source.type());
  const int64_t cuts[] = {0, 7, 7, 60, 100};
  for (int part = 0; part < 4; ++part) {
    const auto prefix = scratch / ("part" + std::to_string(part));
    IndexedDatasetWriter writer(prefix, source.type());
    copy(source, writer, cuts[part], cuts[part + 1]);
    writer.commit();
    joined.append(IndexedDataset(prefix));
  }
  joined.commit();
  for (const char* extension : {".idx", ".bin"})
    EXPECT_TRUE(read_text_file(scratch / (std::string("joined") + extension)) ==
                read_text_file(source.prefix().string() + extension));
  IndexedDatasetWriter other(scratch / "other", TokenType::uint16);
  EXPECT_THROW(other.append(source), DataError);
}

TEST(IndexedDataset, DATA_3_two_million_documents_take_little_memory) {
  const test::ScratchDirectory scratch;
  const uint64_t before = anonymous_resident_bytes();
  IndexedDatasetWriter writer(scratch / "many", TokenType::int32);
  const int32_t word[] = {5};
  for (int i = 0; i < 2'000'000; ++i) {
    writer.add_sequence(word);
    writer.end_document();
  }
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)  // whose own memory this would measure
  EXPECT_LT(anonymous_resident_bytes() - before, 16u << 20);
#else
  static_cast<void>(before);
#endif
  writer.commit();
  const IndexedDataset dataset(scratch / "many");
  EXPECT_EQ(dataset.num_documents(), 2'000'000);
  EXPECT_EQ(dataset.sequence_pointer(1'999'999), 4 * 1'999'999);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(scratch.path()), {}), 2)
      << "a file was left behind";
}

TEST(IndexedDataset, the_writer_refuses_ids_that_do_not_fit) {
  const test::ScratchDirectory scratch;
  IndexedDatasetWriter writer(scratch / "a", TokenType::uint16);
  const int32_t large[] = {3, 65536}, negative[] = {-1};
  EXPECT_THROW(writer.add_sequence(large), DataError);
  EXPECT_THROW(writer.add_sequence(negative), DataError);
}

TEST(IndexedDataset, the_type_follows_megatrons_rule) {
  EXPECT_EQ(token_type_for_vocabulary(65499), TokenType::uint16);
  EXPECT_EQ(token_type_for_vocabulary(65500), TokenType::int32);
}

// One damaged file each: offset in .idx, bytes to put there, what the message must say.
class DamagedIndex : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* extension : {".idx", ".bin"})
      std::filesystem::copy_file((kData / "ag_news_prompt_targets_document").string() + extension,
                                 prefix_.string() + extension);
    idx_ = read_text_file(prefix_.string() + ".idx");
    bin_ = read_text_file(prefix_.string() + ".bin");
  }
  std::string refusal(const std::string& idx, const std::string& bin) {
    // Not through AtomicFile: thousands of syncs would take a minute on a busy disk.
    std::ofstream(prefix_.string() + ".idx", std::ios::binary) << idx;
    std::ofstream(prefix_.string() + ".bin", std::ios::binary) << bin;
    try {
      const IndexedDataset dataset(prefix_);
      return "";
    } catch (const DataError& e) {
      return e.what();
    }
  }
  template <typename T>
  std::string with(size_t offset, T value) {
    std::string damaged = idx_;
    std::memcpy(damaged.data() + offset, &value, sizeof value);
    return refusal(damaged, bin_);
  }
  test::ScratchDirectory scratch_;
  std::filesystem::path prefix_ = scratch_ / "d";
  std::string idx_, bin_;
};

TEST_F(DamagedIndex, is_refused_with_field_and_offset) {
  EXPECT_EQ(refusal(idx_, bin_), "");
  constexpr size_t kPointers = 34 + 400, kDocuments = kPointers + 800;
  EXPECT_THAT(with<char>(0, 'X'), HasSubstr("byte 0: the magic"));
  EXPECT_THAT(with<uint64_t>(9, 2), HasSubstr("byte 9: version 2"));
  EXPECT_THAT(with<uint8_t>(17, 9), HasSubstr("byte 17: type code 9"));
  EXPECT_THAT(with<uint8_t>(17, 0), HasSubstr("byte 17: type code 0"));
  EXPECT_THAT(with<uint8_t>(17, 5),
              HasSubstr("byte 442: sequence 1 points to byte 8"));  // lies about the type
  EXPECT_THAT(with<uint64_t>(18, ~0ull), HasSubstr("byte 18: 18446744073709551615 sequences"));
  EXPECT_THAT(with<uint64_t>(18, 99), HasSubstr("99 sequences and 101 document entries need"));
  EXPECT_THAT(with<uint64_t>(26, 1ull << 61), HasSubstr("byte 26"));
  EXPECT_THAT(with<uint64_t>(26, 0), HasSubstr("byte 26: 0 document entries"));
  EXPECT_THAT(with<int32_t>(34, -2), HasSubstr("byte 34: sequence 0 has length -2"));
  EXPECT_THAT(with<int32_t>(34 + 4 * 99, 1 << 30), HasSubstr("byte 430: sequence 99 ends at byte"));
  EXPECT_THAT(with<int64_t>(kPointers + 8, 16), HasSubstr("byte 442: sequence 1 points to byte 16"));
  EXPECT_THAT(with<int64_t>(kPointers + 8, -8), HasSubstr("points to byte -8"));
  EXPECT_THAT(with<int64_t>(kDocuments, 1), HasSubstr("byte 1234: the first document begins at sequence 1"));
  EXPECT_THAT(with<int64_t>(kDocuments + 16, 0), HasSubstr("byte 1250: document 2 begins at sequence 0"));
  EXPECT_THAT(with<int64_t>(kDocuments + 16, 101), HasSubstr("outside 1 to 100"));
  EXPECT_THAT(with<int64_t>(kDocuments + 800, 99), HasSubstr("the documents end at sequence 99 of 100"));
  EXPECT_THAT(refusal(idx_, bin_.substr(1)), HasSubstr("one of the files is truncated"));
  EXPECT_THAT(refusal(idx_, bin_ + "x"), HasSubstr("the files do not belong together"));
  for (size_t size = 0; size < idx_.size(); size += size < 40 ? 1 : 37)
    EXPECT_NE(refusal(idx_.substr(0, size), bin_), "") << size;
}

TEST_F(DamagedIndex, missing_files_are_named) {
  std::filesystem::remove(prefix_.string() + ".bin");
  try {
    const IndexedDataset dataset(prefix_);
    FAIL();
  } catch (const FileError& e) {
    EXPECT_THAT(e.what(), HasSubstr("d.bin"));
  }
}

TEST(IndexedDataset, values_that_are_no_tokens_are_refused) {
  const test::ScratchDirectory scratch;
  const int32_t token[] = {1, 2};
  IndexedDatasetWriter writer(scratch / "a", TokenType::int64);
  writer.add_sequence(token);
  writer.end_document();
  writer.commit();
  std::string bin = read_text_file(scratch / "a.bin");
  bin[12] = 1;  // token 1 becomes 2^32 + 2
  write_text_file(scratch / "a.bin", bin);
  int32_t out[2];
  EXPECT_THROW(IndexedDataset(scratch / "a").read(0, 0, 2, out), DataError);
  std::string idx = read_text_file(scratch / "a.idx");
  idx[17] = 6;  // float64
  write_text_file(scratch / "a.idx", idx);
  EXPECT_THROW(IndexedDataset(scratch / "a").read(0, 0, 1, out), DataError);
}

}  // namespace
}  // namespace fathom::formats

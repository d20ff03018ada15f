#include "data/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "formats/indexed_dataset.h"
#include "support/scratch.h"

namespace fathom::data {
namespace {

using formats::IndexedDatasetWriter;
using formats::TokenType;
using ::testing::HasSubstr;

// Three documents: [[2 .. 2+n), eod] , none, [[5], [6, eod]].
std::filesystem::path write(const std::filesystem::path& prefix, TokenType type, int32_t n = 40,
                            int32_t eod = 1) {
  IndexedDatasetWriter writer(prefix, type);
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < n; ++i) tokens.push_back(2 + i);
  tokens.push_back(eod);
  writer.add_sequence(tokens);
  writer.end_document();
  writer.end_document();
  const int32_t five[] = {5}, six[] = {6, eod};
  writer.add_sequence(five);
  writer.add_sequence(six);
  writer.end_document();
  writer.commit();
  return prefix;
}

void write_meta(const std::filesystem::path& prefix, int64_t tokens, int32_t eod = 1) {
  write_text_file(prefix.string() + ".meta.json", Json({{"eod_id", eod},
                                                        {"append_eod", true},
                                                        {"vocab_size", 50},
                                                        {"tokenizer", "t"},
                                                        {"tokenizer_fingerprint", "f"},
                                                        {"tokens", tokens}})
                                                      .dump());
}

std::string fault(const std::filesystem::path& prefix, int64_t vocab_size = 0) {
  try {
    validate_dataset({prefix, vocab_size});
    return "";
  } catch (const DataError& e) {
    return e.what();
  }
}

TEST(Validate, says_what_is_in_it) {
  const test::ScratchDirectory scratch;
  for (const TokenType type : {TokenType::uint8, TokenType::int8, TokenType::int16, TokenType::uint16,
                               TokenType::int32, TokenType::int64}) {
    SCOPED_TRACE(token_type_name(type));
    const auto report = validate_dataset({write(scratch / "d", type), 0});
    EXPECT_EQ(report.documents, 3);
    EXPECT_EQ(report.empty_documents, 1);
    EXPECT_EQ(report.tokens, 44);
    EXPECT_EQ(report.largest_id, 41);
    EXPECT_EQ(report.vocab_size, 0);
    EXPECT_EQ(report.eod_id, -1);
    EXPECT_EQ(fault(scratch / "d", 42), "");
    EXPECT_THAT(fault(scratch / "d", 41), HasSubstr("d.bin: sequence 0, token 39 (byte"));
    EXPECT_THAT(fault(scratch / "d", 41), HasSubstr("id 41 is outside the vocabulary of 41"));
  }
}

TEST(Validate, negative_ids_and_ids_over_int32_are_named_even_without_a_vocabulary) {
  const test::ScratchDirectory scratch;
  for (const TokenType type : {TokenType::int8, TokenType::int16, TokenType::int32, TokenType::int64}) {
    SCOPED_TRACE(token_type_name(type));
    EXPECT_THAT(fault(write(scratch / "d", type, 40, -1)), HasSubstr("sequence 0, token 40"));
    EXPECT_THAT(fault(scratch / "d", 1000), HasSubstr("id -1 is no token id"));
  }
  write(scratch / "d", TokenType::int64);
  std::string bin = read_text_file(scratch / "d.bin");
  bin[8 * 41 + 4] = 1;
  write_text_file(scratch / "d.bin", bin);
  EXPECT_THAT(fault(scratch / "d"), HasSubstr("sequence 1, token 0 (byte 328): id 4294967301"));
}

TEST(Validate, the_metadata_are_held_to_their_word) {
  const test::ScratchDirectory scratch;
  const auto d = write(scratch / "d", TokenType::uint16);
  write_meta(d, 44);
  EXPECT_EQ(fault(d), "");
  EXPECT_EQ(validate_dataset({d, 0}).eod_id, 1);
  EXPECT_EQ(validate_dataset({d, 0}).vocab_size, 50);
  EXPECT_THAT(fault(d, 41), HasSubstr("vocabulary of 41")) << "the flag wins";
  write_meta(d, 43);
  EXPECT_THAT(fault(d), HasSubstr("it says 43 tokens, the dataset has 44"));
  write_meta(d, 44, 7);
  EXPECT_THAT(fault(d), HasSubstr("sequence 0, token 40 (byte 80): document 0 ends with id 1, not with"));
  Json pieces = read_json_file(d.string() + ".meta.json");
  pieces["seq_length"] = 64;
  write_text_file(d.string() + ".meta.json", pieces.dump());
  EXPECT_EQ(fault(d), "") << "pieces of documents end anywhere";
}

TEST(Validate, the_first_fault_of_many_chunks_is_named) {
  const test::ScratchDirectory scratch;
  IndexedDatasetWriter writer(scratch / "d", TokenType::int32);
  std::vector<int32_t> tokens(100'003, 9);
  for (int s = 0; s < 120; ++s) {  // 48 MB: several chunks, that sequences and documents do not respect
    tokens[777] = s >= 57 ? 100 : 9;
    writer.add_sequence(tokens);
    if (s % 3 == 2) writer.end_document();
  }
  writer.commit();
  EXPECT_THAT(fault(scratch / "d", 100), HasSubstr("sequence 57, token 777 (byte 22803792): id 100"));
  EXPECT_EQ(fault(scratch / "d", 101), "");
  write_text_file(
      (scratch / "d").string() + ".meta.json",
      R"({"eod_id":9,"append_eod":true,"vocab_size":101,"tokenizer":"","tokenizer_fingerprint":""})");
  EXPECT_EQ(fault(scratch / "d"), "") << "document ends in every chunk";
  std::string bin = read_text_file(scratch / "d.bin");
  bin[4 * 100'003 * 63 - 4] = 8;
  write_text_file(scratch / "d.bin", bin);
  EXPECT_THAT(fault(scratch / "d"), HasSubstr("sequence 62, token 100002 (byte 25200752): document 20 ends"));
}

TEST(Validate, damage_and_floats_are_refused_and_an_empty_dataset_is_valid) {
  const test::ScratchDirectory scratch;
  EXPECT_EQ(validate_dataset({FATHOM_SOURCE_DIR "/tests/formats/data/empty", 5}).largest_id, -1);
  const auto d = write(scratch / "d", TokenType::int32);
  std::string idx = read_text_file(scratch / "d.idx");
  idx[17] = 7;
  write_text_file(scratch / "d.idx", idx);
  EXPECT_THAT(fault(d), HasSubstr("float32"));
  write_text_file(scratch / "d.idx", idx.substr(0, 50));
  EXPECT_THAT(fault(d), HasSubstr("truncated"));
}

}  // namespace
}  // namespace fathom::data

#include "data/text_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "support/scratch.h"

namespace fathom::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string gzip(const std::string& text) {
  std::string out(compressBound(text.size()) + 64, '\0');
  z_stream state{};
  deflateInit2(&state, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  state.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  state.avail_in = static_cast<uInt>(text.size());
  state.next_out = reinterpret_cast<Bytef*>(out.data());
  state.avail_out = static_cast<uInt>(out.size());
  deflate(&state, Z_FINISH);
  out.resize(state.total_out);
  deflateEnd(&state);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

std::string read_all(const std::filesystem::path& path, size_t max_bytes = 1 << 20) {
  LineReader reader(path);
  std::string text;
  while (reader.append(text, max_bytes) != LineReader::Part::none) {
  }
  return text;
}

std::string refusal(const std::filesystem::path& path, const std::string& content) {
  write_text_file(path, content);
  try {
    read_all(path);
    return "";
  } catch (const DataError& e) {
    return e.what();
  }
}

// Text of many sizes around the 256 KiB buffers, and one that compresses so well that output outlives input.
std::vector<std::string> texts() {
  std::vector<std::string> result{
      "", "\n", "a", "a\nb", std::string(5'000'000, 'x'), std::string(3'000'001, '\n')};
  for (const size_t size : {262143u, 262144u, 262145u, 524288u}) {
    std::string text;
    for (uint32_t i = 0; text.size() < size; ++i)
      text += std::to_string(i * 2654435761u) + (i % 7 ? " " : "\n");
    text.resize(size);
    result.push_back(text);
  }
  return result;
}

TEST(LineReader, gives_the_same_bytes_plain_and_compressed) {
  const test::ScratchDirectory scratch;
  for (const std::string& text : texts()) {
    SCOPED_TRACE(text.size());
    write_text_file(scratch / "a.txt", text);
    write_text_file(scratch / "a.txt.gz", gzip(text));
    write_text_file(scratch / "a.txt.zst", zstd(text));
    EXPECT_TRUE(read_all(scratch / "a.txt") == text);
    EXPECT_TRUE(read_all(scratch / "a.txt.gz") == text);
    EXPECT_TRUE(read_all(scratch / "a.txt.zst") == text);
    // Several members or frames in a row are one text.
    write_text_file(scratch / "b.gz", gzip(text) + gzip("end") + gzip(""));
    write_text_file(scratch / "b.zst", zstd(text) + zstd("end") + zstd(""));
    EXPECT_TRUE(read_all(scratch / "b.gz") == text + "end");
    EXPECT_TRUE(read_all(scratch / "b.zst") == text + "end");
  }
}

TEST(LineReader, counts_lines_and_bytes) {
  const test::ScratchDirectory scratch;
  write_text_file(scratch / "a.txt",
                  "\xef\xbb\xbf"
                  "one\r\n\nthree");
  LineReader reader(scratch / "a.txt");
  const auto next = [&](size_t max_bytes = 100) {
    std::string part;
    reader.append(part, max_bytes);
    return part;
  };
  EXPECT_EQ(next(), "one\r\n") << "the byte-order mark is left out";
  EXPECT_EQ(next(), "\n");
  EXPECT_EQ(reader.next_line(), 3);
  EXPECT_EQ(reader.next_byte(), 9u);
  EXPECT_EQ(next(2), "th");
  EXPECT_TRUE(reader.inside_line());
  EXPECT_EQ(reader.next_line(), 3);
  EXPECT_EQ(next(2), "re");
  EXPECT_EQ(next(2), "e");
  EXPECT_EQ(next(), "");
  EXPECT_EQ(reader.line_number(), 3);
}

TEST(LineReader, begins_anywhere) {
  const test::ScratchDirectory scratch;
  const std::string text = texts().back(), tail = text.substr(300'001);
  write_text_file(scratch / "a.txt", text);
  write_text_file(scratch / "a.txt.gz", gzip(text));
  write_text_file(scratch / "a.txt.zst", zstd(text));
  for (const char* name : {"a.txt", "a.txt.gz", "a.txt.zst"}) {
    LineReader reader(scratch / name, 300'001, 77);
    EXPECT_EQ(reader.next_line(), 77);
    std::string rest;
    while (reader.append(rest, 1000) != LineReader::Part::none) {
    }
    EXPECT_TRUE(rest == tail) << name;
    EXPECT_THROW(LineReader(scratch / name, text.size() + 1, 1), DataError) << name;
  }
}

TEST(LineReader, everything_before_damage_is_given) {
  const test::ScratchDirectory scratch;
  const std::string text = texts().back();
  for (const bool is_gzip : {true, false}) {
    std::string bytes = is_gzip ? gzip(text) : zstd(text);
    bytes.resize(bytes.size() - 3);
    const auto path = scratch / (is_gzip ? "a.gz" : "a.zst");
    write_text_file(path, bytes);
    LineReader reader(path);
    std::string got;
    EXPECT_THROW(
        {
          while (reader.append(got, 1000) != LineReader::Part::none) {
          }
        },
        DataError);
    EXPECT_GT(got.size(), is_gzip ? text.size() - 40'000 : text.size() / 4);
    EXPECT_TRUE(text.starts_with(got));
  }
}

TEST(LineReader, truncated_and_damaged_compression_is_refused) {
  const test::ScratchDirectory scratch;
  const std::string text = texts().back(), gz = gzip(text), zst = zstd(text);
  for (const size_t size : {size_t{5}, gz.size() / 2, gz.size() - 1})
    EXPECT_THAT(refusal(scratch / "a.gz", gz.substr(0, size)), HasSubstr("truncated")) << size;
  for (const size_t size : {size_t{5}, zst.size() / 2, zst.size() - 1})
    EXPECT_THAT(refusal(scratch / "a.zst", zst.substr(0, size)), HasSubstr("truncated")) << size;
  EXPECT_THAT(refusal(scratch / "a.gz", text), HasSubstr("not readable as gzip near byte"));
  EXPECT_THAT(refusal(scratch / "a.zst", text), HasSubstr("not readable as zstd near byte"));
  std::string damaged = gz;
  for (size_t i = 1000; i < 1100; ++i) damaged[i] = 'x';
  EXPECT_NE(refusal(scratch / "a.gz", damaged), "");
}

TEST(LineReader, directories_and_missing_files_are_named) {
  const test::ScratchDirectory scratch;
  EXPECT_THROW(LineReader(scratch.path()), FileError);
  EXPECT_THROW(LineReader(scratch / "none.txt"), FileError);
}

TEST(ByteStream, names_lose_their_compression) {
  EXPECT_EQ(without_compression("a/b.tokens.zst"), "a/b.tokens");
  EXPECT_EQ(without_compression("a/b.jsonl.gz"), "a/b.jsonl");
  EXPECT_EQ(without_compression("a/b.txt"), "a/b.txt");
}

}  // namespace
}  // namespace fathom::data

// MindRecord files: those of mindspore 2.10 (tests/formats/mindrecord_oracle.py), ours, and bad ones.
#include "formats/mindrecord.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "formats/mindrecord_values.h"
#include "support/scratch.h"

namespace fathom::formats {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Integers = std::vector<int64_t>;
using Floats = std::vector<double>;

const fs::path kData = fs::path(FATHOM_SOURCE_DIR) / "tests/formats/data/mindrecord";
constexpr MindRecordOptions kSmall{.shards = 1, .header_size = 1 << 14, .page_size = 1 << 15};

int64_t value(int64_t row, int64_t i) { return (row * 7919 + i * 104729) % 129280; }

Integers paged_row(int64_t row) {
  Integers values;
  for (int64_t i = 0; i < 2000; ++i) values.push_back(value(row, i));
  return values;
}

MindRow ragged_row(int64_t row) {
  Integers ids, labels;
  Floats mask;
  for (int64_t i = 0; i < 3 * row + (row > 0 ? 1 : 0); ++i) {
    ids.push_back(value(row, i));
    labels.push_back(i % 3 == 0 ? -100 : (ids.back() << 20) * (i % 2 == 0 ? 1 : -1));
    mask.push_back(i % 3 == 0 ? 0 : 1);
  }
  return {ids, labels, mask};
}

std::vector<MindColumn> ragged_columns() {
  return {{"input_ids", MindType::int32}, {"labels", MindType::int64}, {"loss_mask", MindType::float32}};
}

template <typename Action>
std::string refusal(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(MindRecord, reads_arrays_as_mindspore_does) {
  const MindRecordFile ragged(kData / "ragged.mindrecord");
  ASSERT_EQ(ragged.size(), 7);
  for (int64_t r = 0; r < 7; ++r) EXPECT_EQ(ragged.row(r), ragged_row(r)) << r;
  const MindRecordFile paged(kData / "paged.mindrecord");
  ASSERT_EQ(paged.size(), 9);
  for (int64_t r = 0; r < 9; ++r) EXPECT_EQ(paged.row(r), MindRow{paged_row(r)}) << r;
}

TEST(MindRecord, reads_scalars_and_a_set_by_any_of_its_names) {
  for (const char* name : {"mixed.mindrecord", "mixed.mindrecord0", "mixed.mindrecord2"}) {
    const MindRecordFile mixed(kData / name);
    ASSERT_EQ(mixed.size(), 11);
    EXPECT_EQ(mixed.num_shards(), 3);
    std::vector<std::string> names;
    for (const MindColumn& column : mixed.columns()) names.push_back(column.name);
    EXPECT_THAT(names, testing::ElementsAre("big", "blob", "id", "score", "small", "text"));
    for (int64_t r = 0; r < 11; ++r) {
      std::string blob;
      for (int64_t i = 0; i < 9; ++i) blob += static_cast<char>(r + i);
      EXPECT_EQ(mixed.row(r), (MindRow{(int64_t{1} << 40) + r, blob, r, static_cast<double>(r) / 3, -300 * r,
                                       "ligne " + std::to_string(r) + " é 文"}));
    }
  }
}

TEST(MindRecord, writes_the_bytes_that_mindspore_writes) {
  const test::ScratchDirectory directory;
  {
    MindRecordWriter writer(directory.path() / "ragged.mindrecord", ragged_columns(), 7, kSmall);
    for (int64_t r = 0; r < 7; ++r) writer.add(ragged_row(r));
    writer.commit();
  }
  {
    MindRecordWriter writer(directory.path() / "paged.mindrecord", {{"input_ids"}}, 9, kSmall);
    for (int64_t r = 0; r < 9; ++r) writer.add({paged_row(r)});
    writer.commit();
  }
  for (const char* name : {"ragged.mindrecord", "paged.mindrecord"}) {
    EXPECT_TRUE(read_text_file(directory.path() / name) == read_text_file(kData / name)) << name;
    const auto ours = read_mindrecord_index(directory.path() / (std::string(name) + ".db"));
    const auto theirs = read_mindrecord_index(kData / (std::string(name) + ".db"));
    ASSERT_EQ(ours.size(), theirs.size());
    EXPECT_EQ(std::memcmp(ours.data(), theirs.data(), ours.size() * sizeof(MindIndexRow)), 0);
  }
}

TEST(MindRecord, a_set_holds_its_rows_in_order) {
  for (const int64_t shards : {2, 4, 11}) {
    const test::ScratchDirectory directory;
    MindRecordOptions options = kSmall;
    options.shards = shards;
    MindRecordWriter writer(directory.path() / "set.mindrecord", ragged_columns(), 11, options);
    for (int64_t r = 0; r < 11; ++r) writer.add(ragged_row(r));
    EXPECT_TRUE(mindrecord_files(directory.path() / "set.mindrecord", shards).size() ==
                static_cast<size_t>(shards));
    EXPECT_FALSE(MindRecordFile::is_one(directory.path() / "set.mindrecord"));  // not before commit()
    writer.commit();
    EXPECT_TRUE(MindRecordFile::is_one(directory.path() / "set.mindrecord"));
    const MindRecordFile file(directory.path() / "set.mindrecord");
    ASSERT_EQ(file.size(), 11);
    for (int64_t r = 0; r < 11; ++r) EXPECT_EQ(file.row(r), ragged_row(r));
  }
}

TEST(MindRecord, a_renamed_file_is_read) {
  const test::ScratchDirectory directory;
  for (const char* end : {"", ".db"})
    fs::copy(kData / (std::string("ragged.mindrecord") + end),
             directory.path() / (std::string("other name%?#") + end));
  EXPECT_EQ(MindRecordFile(directory.path() / "other name%?#").size(), 7);
}

TEST(MindRecord, integers_of_every_width_and_sign) {
  const Integers values = {0,     1,     -1,     127,    128,        -128,       -129,
                           32767, 32768, -32768, -32769, 2147483647, -2147483648};
  Integers wide = values, back;
  wide.insert(wide.end(), {2147483648, -2147483649, INT64_MAX, INT64_MIN});
  for (size_t n = 0; n <= wide.size(); ++n) {
    std::string bytes;
    encode_mind_integers(std::span(wide).first(n), bytes);
    EXPECT_EQ(decode_mind_integers(bytes, MindType::int64, back), "");
    EXPECT_EQ(back, Integers(wide.begin(), wide.begin() + static_cast<std::ptrdiff_t>(n)));
    EXPECT_NE(decode_mind_integers(bytes.substr(0, bytes.size() - 1), MindType::int64, back), "");
    EXPECT_NE(decode_mind_integers(bytes + 'x', MindType::int64, back), "");
  }
  std::string bytes;
  encode_mind_integers(wide, bytes);
  EXPECT_THAT(decode_mind_integers(bytes, MindType::int32, back), HasSubstr("more than its type"));
  EXPECT_THAT(decode_mind_integers(std::string("\xff\xff\xff\xff", 4), MindType::int32, back),
              HasSubstr("count"));
}

class BadMindRecord : public testing::Test {
 protected:
  BadMindRecord() : file_(directory_.path() / "r.mindrecord") {
    for (const char* end : {"", ".db"}) {
      const fs::path copy = file_.string() + end;
      fs::copy(kData / (std::string("ragged.mindrecord") + end), copy);
      fs::permissions(copy, fs::perms::owner_all);
    }
    bytes_ = read_text_file(file_);
  }
  std::string opened(const std::string& bytes) {
    write_text_file(file_, bytes);
    return refusal([&] {
      const MindRecordFile file(file_);
      for (int64_t r = 0; r < file.size(); ++r) file.row(r);
    });
  }
  std::string with(const std::string& from, const std::string& to) {
    std::string changed = bytes_;
    const size_t at = changed.find(from);
    EXPECT_NE(at, std::string::npos);
    // The header's length stays: blanks fill what is missing.
    changed.replace(at, from.size(), to);
    const auto grown = static_cast<int64_t>(to.size()) - static_cast<int64_t>(from.size());
    uint64_t length;
    std::memcpy(&length, changed.data(), 8);
    length += static_cast<uint64_t>(grown);
    std::memcpy(changed.data(), &length, 8);
    if (grown < 0) changed.insert(8 + length, static_cast<size_t>(-grown), '\0');
    if (grown > 0) changed.erase(8 + length, static_cast<size_t>(grown));
    return opened(changed);
  }
  test::ScratchDirectory directory_;
  fs::path file_;
  std::string bytes_;
};

TEST_F(BadMindRecord, is_refused_with_field_and_offset) {
  EXPECT_EQ(opened(bytes_), "accepted");
  EXPECT_THAT(opened(""), HasSubstr("byte 0"));
  EXPECT_THAT(opened(std::string(20000, '\xff')), HasSubstr("byte 0: a header of"));
  EXPECT_THAT(opened(bytes_.substr(0, 600)), HasSubstr("byte 0"));
  EXPECT_THAT(opened(bytes_.substr(0, 17000)), HasSubstr("page[0].page_size"));
  EXPECT_THAT(with("\"version\":\"3.0\"", "\"version\":\"4.0\""), HasSubstr("version \"4.0\""));
  EXPECT_THAT(with("\"header_size\":16384", "\"header_size\":1638"), HasSubstr("header_size 1638"));
  EXPECT_THAT(with("\"page_size\":32768", "\"page_size\":3276"), HasSubstr("page_size 3276"));
  EXPECT_THAT(with("\"page_id\":1", "\"page_id\":7"), HasSubstr("page[1].page_id: 7 of 2"));
  EXPECT_THAT(with("\"BLOB_DATA\"", "\"BLOB_DATE\""), HasSubstr("page[0].page_type"));
  EXPECT_THAT(with("\"int64\"", "\"int16\""), HasSubstr("schema.labels.type: \"int16\" is not supported"));
  EXPECT_THAT(with("\"blob_fields\":[\"input_ids\",", "\"blob_fields\":[\"loss_mask\","),
              HasSubstr("stands twice"));
  EXPECT_THAT(with("\"shard_id\":0,\"statistics\"", "\"shard_id\":3,\"statistics\""),
              HasSubstr("shard_id 3"));
  EXPECT_THAT(with("\"schema\"", "\"scheme\""), HasSubstr("header (byte 8)"));
  EXPECT_THAT(with("{\"header_size\"", "[\"header_size\""), HasSubstr("not valid JSON"));
}

TEST_F(BadMindRecord, rows_are_refused_with_their_byte) {
  std::string changed = bytes_;
  changed[16384] = 99;  // the length of row 0
  EXPECT_THAT(opened(changed), HasSubstr("byte 16384: row 0 says 99 bytes, its index"));
  changed = bytes_;
  changed[16384 + 8 + 7] = 77;  // the length of its first column
  EXPECT_THAT(opened(changed), HasSubstr("row 0, input_ids: its length does not fit"));
  changed = bytes_;
  changed[16384 + 8 + 8 + 3] = 7;  // the count of its first column
  EXPECT_THAT(opened(changed), HasSubstr("row 0, input_ids: its count 7 does not fit"));
}

TEST_F(BadMindRecord, indices) {
  const fs::path db = file_.string() + ".db";
  const std::string whole = read_text_file(db);
  const auto read = [&] { return refusal([&] { MindRecordFile{file_}; }); };
  fs::remove(db);
  EXPECT_THAT(read(), HasSubstr("r.mindrecord.db: it is missing"));
  write_text_file(db, "no database, but long enough to look like one");
  EXPECT_THAT(read(), HasSubstr("it is no index of a MindRecord file"));
  write_text_file(db, whole.substr(0, 5000));
  EXPECT_THAT(read(), HasSubstr("r.mindrecord.db"));
  std::vector<MindIndexRow> rows = read_mindrecord_index(kData / "ragged.mindrecord.db");
  rows[2].blob_end += 1 << 20;
  write_mindrecord_index(file_, rows);
  EXPECT_THAT(read(), HasSubstr("INDEXES, row 2: PAGE_OFFSET_BLOB"));
  rows = read_mindrecord_index(kData / "ragged.mindrecord.db");
  rows[3].raw_page = 0;
  write_mindrecord_index(file_, rows);
  EXPECT_THAT(read(), HasSubstr("INDEXES, row 3: PAGE_ID_RAW 0 is no such page"));
}

TEST_F(BadMindRecord, sets) {
  const auto copy = [&](const char* from, const char* to) {
    for (const char* end : {"", ".db"})
      fs::copy(kData / (std::string(from) + end), directory_.path() / (std::string(to) + end));
  };
  copy("mixed.mindrecord0", "m0");
  EXPECT_THAT(refusal([&] { MindRecordFile{directory_.path() / "m"}; }), HasSubstr("m1"));
  copy("mixed.mindrecord0", "m1");
  copy("mixed.mindrecord2", "m2");
  EXPECT_THAT(refusal([&] { MindRecordFile{directory_.path() / "m"}; }),
              HasSubstr("m1: it is not file 1 of the 3"));
  copy("mixed.mindrecord1", "one");
  EXPECT_THAT(refusal([&] { MindRecordFile{directory_.path() / "one"}; }), HasSubstr("does not end with 1"));
}

TEST(MindRecord, what_cannot_be_written_is_refused_and_leaves_nothing) {
  const test::ScratchDirectory directory;
  const fs::path path = directory.path() / "x.mindrecord";
  EXPECT_THAT(refusal([&] { MindRecordWriter(path, {{"a"}}, 3, {.shards = 4}); }),
              HasSubstr("4 files for 3 rows"));
  EXPECT_THAT(refusal([&] { MindRecordWriter(path, {{"a"}}, 3, {.page_size = 5}); }),
              HasSubstr("out of range"));
  EXPECT_THAT(refusal([&] {
                MindRecordWriter writer(path, {{"a"}}, 1, kSmall);
                writer.add({Integers(40000, 1)});
              }),
              HasSubstr("row 0 has 50012 bytes, a page 32768"));
  EXPECT_TRUE(fs::is_empty(directory.path()));
}

}  // namespace
}  // namespace fathom::formats

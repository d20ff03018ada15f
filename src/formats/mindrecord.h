// MindSpore's record files, as mindspore.mindrecord 2.10 writes and reads them (header versions "2.0" and "3.0", neither
// encrypted nor hashed). FILE holds
//   byte 0             u64 length, then that many bytes of JSON: header_size, page_size, schema, page, shard_addresses, ...
//   header_size + p * page_size   page p, of type BLOB_DATA or RAW_DATA. Of a row:
//     blob             u64 length, then the bytes of its one blob column, or for each of several its length (u64 big
//                      endian) and bytes, in the order of blob_fields
//     raw              u64 length, then MessagePack: a map of the other columns ({"id": 0} where there are none)
//   An array of int32 or int64 in a blob: u32 big-endian count n; ceil(n / 4) bytes of 2-bit width codes from the top
//   bits down (1, 2, 4 or 8 bytes); the values in those widths, two's complement. float32 and float64 lie as they are.
// FILE.db is SQLite: INDEXES says for each row where its two parts lie, SHARD_NAME names FILE. All integers are
// little-endian where nothing else is said. A set of several files numbers them: NAME0, NAME1, ...
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/file.h"

namespace fathom::formats {

enum class MindType { bytes, string, int32, int64, float32, float64 };

struct MindColumn {
  std::string name;
  MindType type = MindType::int32;
  bool is_array = true;  // it has a shape, and lies in the blob
  std::vector<int64_t> shape = {-1};
  bool is_blob() const { return is_array || type == MindType::bytes; }
};

// int64: int32, int64. double: float32, float64. string: bytes, string. The vectors: arrays, flat.
using MindValue = std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>>;
using MindRow = std::vector<MindValue>;  // in the order of columns

// A row of INDEXES: offsets in their pages, ends behind the row.
struct MindIndexRow {
  int64_t raw_page = 0, raw_begin = 0, raw_end = 0;
  int64_t row_group = 0;
  int64_t blob_page = 0, blob_begin = 0, blob_end = 0;
};

// The rows of FILE.db in the order of ROW_ID, which must run from 0. Throws FileError (missing), DataError (not SQLite,
// damaged, another schema). The file is opened read-only and nothing in its schema is trusted.
std::vector<MindIndexRow> read_mindrecord_index(const std::filesystem::path& db);
// Writes FILE.db beside `file`, whole or not at all.
void write_mindrecord_index(const std::filesystem::path& file, std::span<const MindIndexRow> rows);

// One file with its index. Thread-safe.
class MindRecordShard {
 public:
  // Throws DataError (file, field, byte offset): whatever does not fit together in header, pages or index.
  MindRecordShard(const std::filesystem::path& file, std::vector<MindIndexRow> rows);

  const std::vector<MindColumn>& columns() const { return columns_; }  // by name
  int64_t size() const { return static_cast<int64_t>(rows_.size()); }
  int64_t num_shards() const { return num_shards_; }
  int64_t shard_id() const { return shard_id_; }
  // Throws DataError with the byte offset: a row whose parts do not have the length or form they should.
  MindRow row(int64_t index) const;

 private:
  struct Page {
    bool is_blob = false;
    int64_t bytes = 0;
  };
  void read_header();
  void read_schema(const void* json);
  void check_rows() const;
  // The byte where a row's part begins, by its index.
  size_t locate(int64_t page, int64_t begin, int64_t end, bool is_blob, int64_t row) const;
  std::string_view part(int64_t page, int64_t begin, int64_t end, bool is_blob, int64_t row) const;
  [[noreturn]] void fail(const std::string& problem) const;

  MappedFile file_;
  std::vector<MindIndexRow> rows_;
  std::vector<MindColumn> columns_;
  std::vector<size_t> blob_columns_;  // indices into columns_, in the order of blob_fields
  std::vector<Page> pages_;           // by page_id; a hole has 0 bytes
  int64_t header_size_ = 0, page_size_ = 0, num_shards_ = 1, shard_id_ = 0;
};

// A file, or all files of a set by the name of one of them or by the name without number. Rows are numbered through,
// file after file, as mindspore's FileReader gives them. Renamed files are read; a set must keep one stem.
class MindRecordFile {
 public:
  explicit MindRecordFile(const std::filesystem::path& path);  // throws FileError, DataError
  // Whether `path` names such a file or set, by its first bytes.
  static bool is_one(const std::filesystem::path& path);

  const std::vector<MindColumn>& columns() const { return shards_[0]->columns(); }
  int64_t size() const { return begins_.back(); }
  int64_t num_shards() const { return static_cast<int64_t>(shards_.size()); }
  MindRow row(int64_t index) const;

 private:
  std::vector<std::unique_ptr<MindRecordShard>> shards_;
  std::vector<int64_t> begins_ = {0};
};

struct MindRecordOptions {
  int64_t shards = 1;              // rows are shared out evenly, in order
  int64_t header_size = 16 << 20;  // mindspore's defaults
  int64_t page_size = int64_t{32} << 20;
  std::string description = "fathom";
};

// Writes files of array columns with the bytes that mindspore 2.10 writes for one call of write_raw_data over all rows.
// Files and their indices appear at commit(), in the order of shards; an index stands only beside its whole file.
// Memory: 100 bytes a row of one shard.
class MindRecordWriter {
 public:
  // `num_rows` is what will be added. Throws UsageError: sizes out of MindSpore's ranges (header 16 KiB to 128 MiB,
  // pages 32 KiB to 256 MiB, both multiples of 4), more shards than rows or over 1000.
  MindRecordWriter(const std::filesystem::path& path, std::vector<MindColumn> columns, int64_t num_rows,
                   const MindRecordOptions& options = {});
  ~MindRecordWriter();
  // Values in the order of the columns given. Throws DataError: a row longer than a page, FileError.
  void add(const MindRow& row);
  void commit();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The names of a set's files, as mindspore gives them: NAME for one, else NAME + number, zero-filled.
std::vector<std::filesystem::path> mindrecord_files(const std::filesystem::path& path, int64_t shards);

}  // namespace fathom::formats

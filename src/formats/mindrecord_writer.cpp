#include <algorithm>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/json.h"
#include "formats/mindrecord.h"
#include "formats/mindrecord_values.h"

namespace fathom::formats {
namespace {

constexpr std::string_view kNoScalars{"\x81\xa2id\x00", 5};  // MessagePack of {"id": 0}
constexpr int64_t kRawRowBytes = 8 + 5;

const char* array_type_name(MindType type) {
  switch (type) {
    case MindType::int32:
      return "int32";
    case MindType::int64:
      return "int64";
    case MindType::float32:
      return "float32";
    case MindType::float64:
      return "float64";
    default:
      throw UsageError("a MindRecord file is written with array columns only");
  }
}

std::string as_u64(uint64_t value) { return {reinterpret_cast<const char*>(&value), sizeof value}; }

}  // namespace

struct MindRecordWriter::State {
  State(const std::filesystem::path& path, std::vector<MindColumn> given, int64_t rows,
        const MindRecordOptions& o)
      : options(o), columns(std::move(given)), num_rows(rows), files(mindrecord_files(path, o.shards)) {
    for (size_t i = 0; i < columns.size(); ++i) order.push_back(i);
    std::sort(order.begin(), order.end(),
              [&](size_t a, size_t b) { return columns[a].name < columns[b].name; });
  }

  int64_t shard_begin(int64_t shard) const { return num_rows * shard / options.shards; }

  void open_shard() {
    file = std::make_unique<AtomicFile>(files[static_cast<size_t>(shard)]);
    index.clear();
    blob_pages.clear();
    raw_bytes = compressed_bytes = 0;
  }

  void add(const MindRow& row) {
    while (added >= shard_begin(shard + 1)) {
      FATHOM_ASSERT(shard + 1 < options.shards);
      finish_shard();
      ++shard;
      open_shard();
    }
    encode(row);
    const auto bytes = static_cast<int64_t>(body.size()) + 8;
    if (bytes > options.page_size)
      throw DataError("{}: row {} has {} bytes, a page {}: shorten the rows or give a larger page",
                      files[static_cast<size_t>(shard)].string(), added, bytes, options.page_size);
    if (blob_pages.empty() || blob_pages.back().bytes + bytes > options.page_size)
      blob_pages.push_back({0, static_cast<int64_t>(index.size()), 0});
    BlobPage& page = blob_pages.back();
    const auto page_id = static_cast<int64_t>(blob_pages.size()) - 1;
    const std::string framed = as_u64(body.size()) + body;
    file->write_at(static_cast<uint64_t>(options.header_size + page_id * options.page_size + page.bytes),
                   framed.data(), framed.size());
    index.push_back({0, 0, 0, page_id, page_id, page.bytes, page.bytes + bytes});
    page.bytes += bytes;
    page.end_row = static_cast<int64_t>(index.size());
    ++added;
  }

  // Columns by name: the body of one is its bytes, of several each with its length in front.
  void encode(const MindRow& row) {
    FATHOM_ASSERT(row.size() == columns.size());
    body.clear();
    for (const size_t c : order) {
      value.clear();
      int64_t plain = 0;
      if (const auto* integers = std::get_if<std::vector<int64_t>>(&row[c])) {
        encode_mind_integers(*integers, value);
        plain = static_cast<int64_t>(integers->size()) * (columns[c].type == MindType::int32 ? 4 : 8);
        compressed_bytes += plain - static_cast<int64_t>(value.size());
      } else {
        encode_mind_floats(std::get<std::vector<double>>(row[c]), columns[c].type, value);
      }
      if (columns.size() > 1)
        for (int shift = 56; shift >= 0; shift -= 8) body += static_cast<char>(value.size() >> shift);
      body += value;
    }
  }

  // The rows of a blob page are a group, whose raw rows stand in one page.
  void finish_shard() {
    Json pages = Json::array();
    const auto page_entry = [&](int64_t end, int64_t id, int64_t bytes, const char* type, int64_t type_id,
                                Json groups, int64_t start) {
      pages.push_back({{"end_row_id", end},
                       {"page_id", id},
                       {"page_size", bytes},
                       {"page_type", type},
                       {"page_type_id", type_id},
                       {"row_group_ids", std::move(groups)},
                       {"shard_id", shard},
                       {"start_row_id", start}});
    };
    const auto num_blob = static_cast<int64_t>(blob_pages.size());
    for (int64_t p = 0; p < num_blob; ++p) {
      const BlobPage& page = blob_pages[static_cast<size_t>(p)];
      page_entry(page.end_row, p, page.bytes, "BLOB_DATA", p, Json::array({{{"id", 0}, {"offset", 0}}}),
                 page.begin_row);
    }
    int64_t raw_page = 0;
    Json groups = Json::array();
    const auto close_raw = [&] {
      page_entry(0, num_blob + raw_page, raw_bytes, "RAW_DATA", raw_page,
                 std::exchange(groups, Json::array()), 0);
      ++raw_page;
      raw_bytes = 0;
    };
    const std::string raw_row = as_u64(kNoScalars.size()) + std::string(kNoScalars);
    for (int64_t p = 0; p < num_blob; ++p) {
      const BlobPage& page = blob_pages[static_cast<size_t>(p)];
      const int64_t bytes = (page.end_row - page.begin_row) * kRawRowBytes;
      if (raw_bytes > 0 && raw_bytes + bytes > options.page_size) close_raw();
      groups.push_back({{"id", p}, {"offset", raw_bytes}});
      const auto place =
          static_cast<uint64_t>(options.header_size + (num_blob + raw_page) * options.page_size + raw_bytes);
      std::string block;
      for (int64_t r = page.begin_row; r < page.end_row; ++r) {
        MindIndexRow& at = index[static_cast<size_t>(r)];
        at.raw_page = num_blob + raw_page;
        at.raw_begin = raw_bytes;
        at.raw_end = raw_bytes += kRawRowBytes;
        block += raw_row;
      }
      file->write_at(place, block.data(), block.size());
    }
    if (num_blob > 0) close_raw();
    write_header(pages);
    finished.push_back({std::move(file), std::move(index)});
    index.clear();
  }

  void write_header(const Json& pages) {
    Json fields, schema, names = Json::array();
    for (const size_t c : order) {
      fields.push_back(columns[c].name);
      schema[columns[c].name] = {{"shape", columns[c].shape}, {"type", array_type_name(columns[c].type)}};
    }
    for (const auto& each : files) names.push_back(each.filename().string());
    const Json header = {
        {"header_size", options.header_size},
        {"index_fields", nullptr},
        {"page", pages},
        {"page_size", options.page_size},
        {"compression_size", compressed_bytes},
        {"schema",
         Json::array({{{"blob_fields", fields}, {"desc", options.description}, {"schema", schema}}})},
        {"shard_addresses", names},
        {"shard_id", shard},
        {"statistics", nullptr},
        {"version", "3.0"}};
    const std::string text = header.dump();
    if (static_cast<int64_t>(text.size()) + 8 > options.header_size)
      throw DataError(
          "{}: the header of {} pages takes {} bytes, {} are kept for it: give more shards or a larger "
          "header",
          files[static_cast<size_t>(shard)].string(), pages.size(), text.size(), options.header_size);
    const std::string framed = as_u64(text.size()) + text;
    file->write_at(0, framed.data(), framed.size());
  }

  struct BlobPage {
    int64_t bytes = 0, begin_row = 0, end_row = 0;
  };
  struct Finished {
    std::unique_ptr<AtomicFile> file;
    std::vector<MindIndexRow> index;
  };
  MindRecordOptions options;
  std::vector<MindColumn> columns;
  std::vector<size_t> order;
  int64_t num_rows;
  std::vector<std::filesystem::path> files;
  int64_t shard = 0, added = 0, raw_bytes = 0, compressed_bytes = 0;
  std::unique_ptr<AtomicFile> file;
  std::vector<MindIndexRow> index;
  std::vector<BlobPage> blob_pages;
  std::vector<Finished> finished;
  std::string body, value;
};

MindRecordWriter::MindRecordWriter(const std::filesystem::path& path, std::vector<MindColumn> columns,
                                   int64_t num_rows, const MindRecordOptions& options) {
  const auto is_within = [](int64_t value, int64_t low, int64_t high) {
    return value >= low && value <= high && value % 4 == 0;
  };
  if (!is_within(options.header_size, 16 << 10, 128 << 20) ||
      !is_within(options.page_size, 32 << 10, int64_t{256} << 20))
    throw UsageError(
        "MindRecord: header size {} (16 KiB to 128 MiB) or page size {} (32 KiB to 256 MiB) is out of range "
        "or no "
        "multiple of 4",
        options.header_size, options.page_size);
  if (options.shards < 1 || options.shards > 1000 || num_rows < options.shards)
    throw UsageError(
        "MindRecord: {} files for {} rows: each holds one row at least, and there are at most 1000",
        options.shards, num_rows);
  for (const MindColumn& column : columns) array_type_name(column.type);
  state_ = std::make_unique<State>(path, std::move(columns), num_rows, options);
  state_->open_shard();
}

MindRecordWriter::~MindRecordWriter() = default;

void MindRecordWriter::add(const MindRow& row) { state_->add(row); }

void MindRecordWriter::commit() {
  State& s = *state_;
  FATHOM_ASSERT(s.added == s.num_rows);
  s.finish_shard();
  std::error_code ignored;
  for (const auto& file : s.files) std::filesystem::remove(file.string() + ".db", ignored);
  for (size_t i = 0; i < s.finished.size(); ++i) {
    s.finished[i].file->commit();
    write_mindrecord_index(s.files[i], s.finished[i].index);
  }
}

}  // namespace fathom::formats

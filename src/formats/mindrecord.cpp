#include "formats/mindrecord.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/json.h"
#include "formats/mindrecord_values.h"

namespace fathom::formats {
namespace {

constexpr int64_t kMinHeader = 16 << 10, kMaxHeader = 128 << 20;
constexpr int64_t kMinPage = 32 << 10, kMaxPage = 256 << 20;
constexpr int64_t kMaxShards = 1000;
constexpr std::pair<const char*, MindType> kTypes[] = {
    {"bytes", MindType::bytes}, {"string", MindType::string},   {"int32", MindType::int32},
    {"int64", MindType::int64}, {"float32", MindType::float32}, {"float64", MindType::float64}};

const char* type_name(MindType type) {
  for (const auto& [name, known] : kTypes)
    if (known == type) return name;
  return "";
}

bool is_float(MindType type) { return type == MindType::float32 || type == MindType::float64; }

uint64_t read_u64(const std::byte* p) {
  uint64_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

uint64_t big_endian_u64(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; ++i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

}  // namespace

void MindRecordShard::fail(const std::string& problem) const {
  throw DataError("{}: {}", file_.path().string(), problem);
}

MindRecordShard::MindRecordShard(const std::filesystem::path& file, std::vector<MindIndexRow> rows)
    : file_(file), rows_(std::move(rows)) {
  try {
    read_header();
  } catch (const nlohmann::json::exception& error) {
    fail(fmt::format("header (byte 8): a field is missing or of another kind: {}", error.what()));
  } catch (const ConfigError& error) {
    throw DataError(std::string(error.what()));
  }
  check_rows();
}

void MindRecordShard::read_header() {
  if (file_.size() < 8) fail("byte 0: no MindRecord file: it has less than 8 bytes");
  const uint64_t length = read_u64(file_.data());
  if (length < 2 || length > uint64_t{kMaxHeader} || length > file_.size() - 8)
    fail(fmt::format("byte 0: a header of {} bytes does not fit: it is no MindRecord file, or is cut off",
                     length));
  const Json header =
      parse_json(file_.text().substr(8, length), file_.path().string() + ": header (JSON from byte 8)");
  const auto version = header.at("version").get<std::string>();
  if (version != "2.0" && version != "3.0")
    fail(fmt::format("header: version {:?} is not supported: 2.0 and 3.0 are", version));
  header_size_ = header.at("header_size").get<int64_t>();
  if (header_size_ < kMinHeader || header_size_ > kMaxHeader ||
      length + 8 > static_cast<uint64_t>(header_size_))
    fail(fmt::format("header: header_size {} is outside 16384 to 134217728, or below its own length",
                     header_size_));
  page_size_ = header.at("page_size").get<int64_t>();
  if (page_size_ < kMinPage || page_size_ > kMaxPage)
    fail(fmt::format("header: page_size {} is outside 32768 to 268435456", page_size_));
  num_shards_ = static_cast<int64_t>(header.at("shard_addresses").size());
  shard_id_ = header.at("shard_id").get<int64_t>();
  if (!header["shard_addresses"].is_array() || num_shards_ < 1 || num_shards_ > kMaxShards || shard_id_ < 0 ||
      shard_id_ >= num_shards_)
    fail(fmt::format("header: shard_id {} of {} shard_addresses", shard_id_, num_shards_));
  const Json& pages = header.at("page");
  if (!pages.is_array()) fail("header: page is no list");
  pages_.resize(pages.size());
  for (size_t i = 0; i < pages.size(); ++i) {
    const Json& page = pages[i];
    const auto id = page.at("page_id").get<int64_t>(), bytes = page.at("page_size").get<int64_t>();
    const auto type = page.at("page_type").get<std::string>();
    const std::string where = fmt::format("header: page[{}]", i);
    if (type != "BLOB_DATA" && type != "RAW_DATA")
      fail(fmt::format("{}.page_type: {:?} is unknown", where, type));
    if (id < 0 || id >= static_cast<int64_t>(pages.size()))
      fail(fmt::format("{}.page_id: {} of {} pages", where, id, pages.size()));
    const int64_t begin = header_size_ + id * page_size_;  // below 2^27 + 2^27 / 50 * 2^28
    if (bytes < 0 || bytes > page_size_ || begin + bytes > static_cast<int64_t>(file_.size()))
      fail(fmt::format("{}.page_size: {} bytes from byte {} do not fit: the file has {}, a page {}", where,
                       bytes, begin, file_.size(), page_size_));
    pages_[static_cast<size_t>(id)] = {type == "BLOB_DATA", bytes};
  }
  read_schema(&header.at("schema"));
}

void MindRecordShard::read_schema(const void* json) {
  const Json& schemas = *static_cast<const Json*>(json);
  if (!schemas.is_array() || schemas.size() != 1)
    fail(fmt::format("header: schema: {} schemas; one is supported", schemas.size()));
  for (const auto& [name, field] : schemas[0].at("schema").items()) {
    MindColumn column;
    column.name = name;
    const auto type = field.at("type").get<std::string>();
    const auto known =
        std::find_if(std::begin(kTypes), std::end(kTypes), [&](const auto& t) { return type == t.first; });
    if (known == std::end(kTypes))
      fail(
          fmt::format("header: schema.{}.type: {:?} is not supported: bytes, string, int32, int64, float32 "
                      "and float64 are",
                      name, type));
    column.type = known->second;
    column.is_array = field.contains("shape");
    column.shape = column.is_array ? field["shape"].get<std::vector<int64_t>>() : std::vector<int64_t>();
    if (column.is_array && (column.type == MindType::bytes || column.type == MindType::string))
      fail(fmt::format("header: schema.{}.shape: {} has no shape", name, type));
    columns_.push_back(std::move(column));
  }
  std::sort(columns_.begin(), columns_.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  for (const Json& field : schemas[0].at("blob_fields")) {
    const auto name = field.get<std::string>();
    const auto at =
        std::find_if(columns_.begin(), columns_.end(), [&](const auto& c) { return c.name == name; });
    const auto index = static_cast<size_t>(at - columns_.begin());
    if (at == columns_.end() || !at->is_blob() ||
        std::find(blob_columns_.begin(), blob_columns_.end(), index) != blob_columns_.end())
      fail(fmt::format("header: schema.blob_fields: {:?} is no column of arrays or bytes, or stands twice",
                       name));
    blob_columns_.push_back(index);
  }
  for (size_t i = 0; i < columns_.size(); ++i)
    if (columns_[i].is_blob() &&
        std::find(blob_columns_.begin(), blob_columns_.end(), i) == blob_columns_.end())
      fail(fmt::format("header: schema.blob_fields: {:?} is missing", columns_[i].name));
}

void MindRecordShard::check_rows() const {
  for (size_t i = 0; i < rows_.size(); ++i) {
    const MindIndexRow& row = rows_[i];
    locate(row.raw_page, row.raw_begin, row.raw_end, false, static_cast<int64_t>(i));
    if (!blob_columns_.empty())
      locate(row.blob_page, row.blob_begin, row.blob_end, true, static_cast<int64_t>(i));
  }
}

size_t MindRecordShard::locate(int64_t page, int64_t begin, int64_t end, bool is_blob, int64_t row) const {
  const char* what = is_blob ? "BLOB" : "RAW";
  const auto refuse = [&](const std::string& problem) {
    throw DataError("{}.db: INDEXES, row {}: {}", file_.path().string(), row, problem);
  };
  if (page < 0 || page >= static_cast<int64_t>(pages_.size()) ||
      pages_[static_cast<size_t>(page)].is_blob != is_blob)
    refuse(fmt::format("PAGE_ID_{} {} is no such page of {}", what, page, pages_.size()));
  const int64_t size = pages_[static_cast<size_t>(page)].bytes;
  if (begin < 0 || end < begin || end - begin < 8 || end > size)
    refuse(fmt::format("PAGE_OFFSET_{} {} to {} do not fit into {} bytes of page {}", what, begin, end, size,
                       page));
  return static_cast<size_t>(header_size_ + page * page_size_ + begin);
}

// The bytes of a row's part behind their length.
std::string_view MindRecordShard::part(int64_t page, int64_t begin, int64_t end, bool is_blob,
                                       int64_t row) const {
  const size_t at = locate(page, begin, end, is_blob, row);
  const uint64_t length = read_u64(file_.data() + at);
  if (length != static_cast<uint64_t>(end - begin - 8))
    fail(fmt::format("byte {}: row {} says {} bytes, its index {}", at, row, length, end - begin - 8));
  return file_.text().substr(at + 8, length);
}

MindRow MindRecordShard::row(int64_t index) const {
  FATHOM_ASSERT(index >= 0 && index < size());
  const MindIndexRow& at = rows_[static_cast<size_t>(index)];
  MindRow values(columns_.size());
  const auto where = [&](std::string_view bytes, size_t column) {
    return fmt::format("byte {}: row {}, {}", bytes.data() - file_.text().data(), index,
                       columns_[column].name);
  };
  if (!blob_columns_.empty()) {
    std::string_view left = part(at.blob_page, at.blob_begin, at.blob_end, true, index);
    for (const size_t c : blob_columns_) {
      std::string_view bytes = left;
      if (blob_columns_.size() > 1) {
        if (left.size() < 8 || big_endian_u64(left) > left.size() - 8)
          fail(where(left, c) + ": its length does not fit into the row");
        bytes = left.substr(8, big_endian_u64(left));
        left.remove_prefix(8 + bytes.size());
      }
      const MindType type = columns_[c].type;
      std::string problem;
      if (!columns_[c].is_array)
        values[c] = std::string(bytes);
      else if (is_float(type))
        problem = decode_mind_floats(bytes, type, values[c].emplace<std::vector<double>>());
      else
        problem = decode_mind_integers(bytes, type, values[c].emplace<std::vector<int64_t>>());
      if (!problem.empty()) fail(where(bytes, c) + ": " + problem);
    }
    if (blob_columns_.size() > 1 && !left.empty())
      fail(fmt::format("byte {}: row {}: {} bytes are left behind its columns",
                       left.data() - file_.text().data(), index, left.size()));
  }
  const std::string_view raw = part(at.raw_page, at.raw_begin, at.raw_end, false, index);
  if (blob_columns_.size() == columns_.size()) return values;
  MindScalars scalars;
  const size_t raw_at = static_cast<size_t>(raw.data() - file_.text().data());
  if (const std::string problem = decode_mind_scalars(raw, scalars); !problem.empty())
    fail(fmt::format("byte {}: row {}: {}", raw_at, index, problem));
  for (size_t c = 0; c < columns_.size(); ++c) {
    const MindColumn& column = columns_[c];
    if (column.is_blob()) continue;
    const auto found = scalars.find(column.name);
    if (found == scalars.end())
      fail(fmt::format("byte {}: row {}: {} is missing", raw_at, index, column.name));
    MindValue value = std::move(found->second);
    // A whole number is packed as an integer whatever its type.
    if (is_float(column.type) && std::holds_alternative<int64_t>(value))
      value = static_cast<double>(std::get<int64_t>(value));
    const bool fits = column.type == MindType::string ? std::holds_alternative<std::string>(value)
                      : is_float(column.type)         ? std::holds_alternative<double>(value)
                                                      : std::holds_alternative<int64_t>(value);
    if (!fits)
      fail(fmt::format("byte {}: row {}: {} is no {}", raw_at, index, column.name, type_name(column.type)));
    values[c] = std::move(value);
  }
  return values;
}

std::vector<std::filesystem::path> mindrecord_files(const std::filesystem::path& path, int64_t shards) {
  if (shards == 1) return {path};
  const size_t digits = std::to_string(shards - 1).size();
  std::vector<std::filesystem::path> files;
  for (int64_t i = 0; i < shards; ++i) files.emplace_back(fmt::format("{}{:0{}}", path.string(), i, digits));
  return files;
}

MindRecordFile::MindRecordFile(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::path first = path;
  for (const char* zeros : {"", "0", "00", "000"})
    if (std::filesystem::is_regular_file(path.string() + zeros, error)) {
      first = path.string() + zeros;
      break;
    }
  const auto open = [](const std::filesystem::path& file) {
    const MappedFile probe(file);  // a missing file is named before its missing index
    return std::make_unique<MindRecordShard>(file, read_mindrecord_index(file.string() + ".db"));
  };
  auto shard = open(first);
  const int64_t count = shard->num_shards();
  if (count == 1) {
    shards_.push_back(std::move(shard));
  } else {
    const std::string digits = fmt::format("{:0{}}", shard->shard_id(), std::to_string(count - 1).size());
    const std::string name = first.string();
    if (!name.ends_with(digits))
      throw DataError(
          "{}: it is file {} of {}, but its name does not end with {}: give the set its numbers back", name,
          shard->shard_id(), count, digits);
    const auto files = mindrecord_files(name.substr(0, name.size() - digits.size()), count);
    for (int64_t i = 0; i < count; ++i) {
      const auto& file = files[static_cast<size_t>(i)];
      shards_.push_back(file == first ? std::move(shard) : open(file));
      const MindRecordShard& next = *shards_.back();
      const auto same = [](const MindColumn& a, const MindColumn& b) {
        return a.name == b.name && a.type == b.type && a.is_array == b.is_array;
      };
      if (next.num_shards() != count || next.shard_id() != i ||
          !std::equal(next.columns().begin(), next.columns().end(), shards_[0]->columns().begin(),
                      shards_[0]->columns().end(), same))
        throw DataError("{}: it is not file {} of the {} of {}: number or schema are others", file.string(),
                        i, count, name);
    }
  }
  for (const auto& each : shards_) begins_.push_back(begins_.back() + each->size());
}

bool MindRecordFile::is_one(const std::filesystem::path& path) {
  std::error_code error;
  for (const char* zeros : {"", "0", "00", "000"}) {
    const std::filesystem::path file = path.string() + zeros;
    if (!std::filesystem::is_regular_file(file, error)) continue;
    const MappedFile mapped(file);
    return mapped.size() >= static_cast<size_t>(kMinHeader) && mapped.text()[8] == '{' &&
           read_u64(mapped.data()) <= mapped.size() - 8 &&
           mapped.text().substr(8, 4096).find("\"header_size\"") != std::string_view::npos;
  }
  return false;
}

MindRow MindRecordFile::row(int64_t index) const {
  FATHOM_ASSERT(index >= 0 && index < size());
  const auto next = std::upper_bound(begins_.begin(), begins_.end(), index);
  const auto shard = static_cast<size_t>(next - begins_.begin()) - 1;
  return shards_[shard]->row(index - begins_[shard]);
}

}  // namespace fathom::formats

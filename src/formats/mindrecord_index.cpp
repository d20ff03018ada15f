// The SQLite index beside a MindRecord file.
#include <sqlite3.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "formats/mindrecord.h"

namespace fathom::formats {
namespace {

constexpr const char* kColumns =
    "ROW_ID, PAGE_ID_RAW, PAGE_OFFSET_RAW, PAGE_OFFSET_RAW_END, ROW_GROUP_ID, PAGE_ID_BLOB, "
    "PAGE_OFFSET_BLOB, "
    "PAGE_OFFSET_BLOB_END";

// A URI, since only there a file can be called immutable: SQLite then takes no lock and makes no journal.
std::string immutable_uri(const std::filesystem::path& path) {
  std::string uri = "file:";
  for (const char c : path.string())
    if (c == '%' || c == '?' || c == '#')
      uri += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    else
      uri += c;
  return uri + "?mode=ro&immutable=1";
}

class Database {
 public:
  Database(const std::filesystem::path& path, bool is_new) : path_(path) {
    const int code =
        is_new ? sqlite3_open_v2(path.c_str(), &db_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr)
               : sqlite3_open_v2(immutable_uri(path).c_str(), &db_, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI,
                                 nullptr);
    if (code == SQLITE_OK) {
      sqlite3_db_config(db_, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
      sqlite3_db_config(db_, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
      return;
    }
    const std::string cause = db_ ? sqlite3_errmsg(db_) : "no memory";
    sqlite3_close(db_);
    throw FileError("cannot open {}: {}", path.string(), cause);
  }
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;
  ~Database() { sqlite3_close(db_); }

  void execute(const char* sql) {
    if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) fail();
  }
  [[noreturn]] void fail() const {
    throw DataError("{}: {}: it is no index of a MindRecord file, or is damaged; write the file anew",
                    path_.string(), sqlite3_errmsg(db_));
  }
  sqlite3* get() const { return db_; }

 private:
  std::filesystem::path path_;
  sqlite3* db_ = nullptr;
};

class Statement {
 public:
  Statement(const Database& database, const std::string& sql) : database_(database) {
    if (sqlite3_prepare_v2(database.get(), sql.c_str(), -1, &statement_, nullptr) != SQLITE_OK)
      database.fail();
  }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  ~Statement() { sqlite3_finalize(statement_); }

  bool step() {
    const int code = sqlite3_step(statement_);
    if (code != SQLITE_ROW && code != SQLITE_DONE) database_.fail();
    return code == SQLITE_ROW;
  }
  bool is_integer(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_INTEGER; }
  int64_t integer(int column) const { return sqlite3_column_int64(statement_, column); }
  void run(std::initializer_list<int64_t> values) {
    int place = 0;
    for (const int64_t value : values) sqlite3_bind_int64(statement_, ++place, value);
    step();
    sqlite3_reset(statement_);
  }
  void run(const std::string& text) {
    sqlite3_bind_text(statement_, 1, text.c_str(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
    step();
    sqlite3_reset(statement_);
  }

 private:
  const Database& database_;
  sqlite3_stmt* statement_ = nullptr;
};

}  // namespace

std::vector<MindIndexRow> read_mindrecord_index(const std::filesystem::path& db) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(db, error))
    throw FileError(
        "cannot open {}: it is missing; a MindRecord file is read through its .db, so copy both, or write it "
        "anew",
        db.string());
  const Database database(db, false);
  // A view of that name could compute what it likes.
  if (!Statement(database, "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'INDEXES'").step())
    throw DataError("{}: it has no table INDEXES, so it is no index of a MindRecord file", db.string());
  std::vector<MindIndexRow> rows;
  Statement select(database, std::string("SELECT ") + kColumns + " FROM INDEXES ORDER BY ROW_ID");
  while (select.step()) {
    for (int column = 0; column < 8; ++column)
      if (!select.is_integer(column))
        throw DataError("{}: INDEXES, row {}: column {} is no integer", db.string(), rows.size(), column);
    if (select.integer(0) != static_cast<int64_t>(rows.size()))
      throw DataError("{}: INDEXES: ROW_ID {} stands where {} should", db.string(), select.integer(0),
                      rows.size());
    rows.push_back({select.integer(1), select.integer(2), select.integer(3), select.integer(4),
                    select.integer(5), select.integer(6), select.integer(7)});
  }
  return rows;
}

void write_mindrecord_index(const std::filesystem::path& file, std::span<const MindIndexRow> rows) {
  const std::filesystem::path db = file.string() + ".db";
  const std::filesystem::path temporary = db.string() + ".tmp-" + std::to_string(::getpid());
  std::error_code ignored;
  std::filesystem::remove(temporary, ignored);
  try {
    Database database(temporary, true);
    database.execute("PRAGMA journal_mode = MEMORY");
    database.execute("BEGIN");
    database.execute(
        "CREATE TABLE INDEXES(  ROW_ID               INT  NOT NULL, PAGE_ID_RAW          INT  NOT NULL, "
        "PAGE_OFFSET_RAW      INT  NOT NULL, PAGE_OFFSET_RAW_END  INT  NOT NULL, ROW_GROUP_ID         INT  "
        "NOT NULL, "
        "PAGE_ID_BLOB         INT  NOT NULL, PAGE_OFFSET_BLOB     INT  NOT NULL, PAGE_OFFSET_BLOB_END INT  "
        "NOT NULL, "
        "PRIMARY KEY(ROW_ID))");
    database.execute("CREATE TABLE SHARD_NAME(NAME TEXT NOT NULL)");
    {
      Statement insert(database,
                       std::string("INSERT INTO INDEXES(") + kColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
      int64_t id = 0;
      for (const MindIndexRow& row : rows)
        insert.run({id++, row.raw_page, row.raw_begin, row.raw_end, row.row_group, row.blob_page,
                    row.blob_begin, row.blob_end});
      Statement(database, "INSERT INTO SHARD_NAME(NAME) VALUES (?)").run(file.filename().string());
    }
    database.execute("COMMIT");
  } catch (const DataError& error) {
    std::filesystem::remove(temporary, ignored);
    throw FileError("cannot write {}: {}", db.string(), error.what());
  } catch (...) {
    std::filesystem::remove(temporary, ignored);
    throw;
  }
  if (std::rename(temporary.c_str(), db.c_str()) != 0) {
    const std::string cause = std::strerror(errno);
    std::filesystem::remove(temporary, ignored);
    throw FileError("cannot write {}: {}", db.string(), cause);
  }
}

}  // namespace fathom::formats

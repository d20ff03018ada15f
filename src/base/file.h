// Files: mapped reading, whole reading, and writing that appears under its final name complete or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace fathom {

namespace fs = std::filesystem;

// A read-only memory map of a whole file. An empty file maps to size 0 and data() == nullptr.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const fs::path& path);  // throws FileError: missing, not a regular file, no permission
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  const fs::path& path() const { return path_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  fs::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

std::string read_text_file(const fs::path& path);  // throws FileError

// Writes to `<path>.tmp-<pid>`; commit() syncs, closes and renames. Without commit() the destructor removes the
// temporary file. Every call throws FileError naming the path and the cause (disk full, read-only, ...).
class AtomicFile {
 public:
  explicit AtomicFile(const fs::path& path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void write_at(uint64_t offset, const void* data,
                size_t bytes);  // pwrite; does not move the append position
  // Appends bytes of another file without taking them through memory where the file systems can (sharing the
  // blocks where they can do that). Throws FileError also where the source ends early.
  void append_from(const fs::path& source, uint64_t begin, uint64_t bytes);
  uint64_t offset() const { return offset_; }
  void commit();
  // Without waiting for the disk: for files whose readers find out by themselves that a power cut damaged them.
  void commit_unsynced();

 private:
  void flush();
  fs::path path_, temporary_;
  int fd_ = -1;
  uint64_t offset_ = 0;
  std::string buffer_;
};

void write_text_file(const fs::path& path, std::string_view text);  // through AtomicFile

// Makes the directory and its parents; throws FileError (read-only, a file in the way).
void make_directories(const fs::path& path);
// fsync of a directory, so that renames inside it survive a power cut.
void sync_directory(const fs::path& path);
uint64_t free_disk_bytes(const fs::path& path);  // of the file system that holds `path` or its nearest parent

}  // namespace fathom

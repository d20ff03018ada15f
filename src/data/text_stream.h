// Lines of a text file, plain, .gz or .zst, read as a stream: memory is a line and two buffers, whatever the
// file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace fathom::data {

// Bytes of a file, decompressed by its extension (several gzip members or zstd frames in a row included).
class ByteStream {
 public:
  virtual ~ByteStream() = default;
  // Up to `size` bytes; 0 at the end. Throws FileError, DataError (damaged or truncated compression, with the
  // byte).
  virtual size_t read(char* out, size_t size) = 0;
  virtual uint64_t file_bytes_read() const = 0;  // of the file as it lies on disk, for progress
};
std::unique_ptr<ByteStream> open_byte_stream(const std::filesystem::path& path);

// `path` without .gz or .zst.
std::filesystem::path without_compression(const std::filesystem::path& path);

// The largest line and the largest document that are read: a guard against compressed bombs and files without
// newlines.
inline constexpr uint64_t kMaxTextBytes = uint64_t{1} << 30;

class LineReader {
 public:
  explicit LineReader(const std::filesystem::path& path);

  // The next line with its '\n' (absent at most at the end of the file). A byte-order mark at the file's
  // beginning is left out. Throws DataError naming file and line: a line over kMaxTextBytes.
  bool next(std::string& line);
  int64_t line_number() const { return line_number_; }  // of the line last given, from 1
  uint64_t line_begin() const { return line_begin_; }   // its first byte in the decompressed text
  uint64_t file_bytes_read() const { return stream_->file_bytes_read(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::unique_ptr<ByteStream> stream_;
  std::string buffer_;
  size_t at_ = 0;
  uint64_t offset_ = 0;  // of buffer_[at_] in the text
  int64_t line_number_ = 0;
  uint64_t line_begin_ = 0;
};

}  // namespace fathom::data

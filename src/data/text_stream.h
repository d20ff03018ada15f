// Lines of a text file, plain, .gz or .zst, read as a stream: memory is three buffers, whatever the file.
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
  // byte), the latter only after all bytes before the damage were given.
  virtual size_t read(char* out, size_t size) = 0;
  // Goes forward. A compressed file is decompressed up to there. False: the file ends before.
  virtual bool skip(uint64_t bytes);
  virtual uint64_t file_bytes_read() const = 0;  // of the file as it lies on disk, for progress
};
std::unique_ptr<ByteStream> open_byte_stream(const std::filesystem::path& path);

// `path` without .gz or .zst.
std::filesystem::path without_compression(const std::filesystem::path& path);

class LineReader {
 public:
  // Begins at `byte` of the decompressed text, which lies in line `line`. Throws FileError, DataError (the text
  // ends before `byte`).
  explicit LineReader(const std::filesystem::path& path, uint64_t byte = 0, int64_t line = 1);

  enum class Part {
    none,  // the end of the file
    line,  // a line, or the rest of one, with its '\n' (absent at most at the end of the file)
    piece  // `max_bytes` bytes of a longer line
  };
  // Appends the next part to `out`. A byte-order mark at the file's beginning is left out.
  Part append(std::string& out, size_t max_bytes);

  int64_t line_number() const { return line_number_; }  // of the part last given, from 1
  bool inside_line() const { return inside_line_; }     // the part last given was a piece
  // Where the next part begins in the decompressed text, and in which line.
  uint64_t next_byte() const { return offset_; }
  int64_t next_line() const { return line_number_ + (inside_line_ ? 0 : 1); }
  uint64_t file_bytes_read() const { return stream_->file_bytes_read(); }

 private:
  bool fill();
  std::unique_ptr<ByteStream> stream_;
  std::string buffer_;
  size_t at_ = 0;
  uint64_t offset_;  // of buffer_[at_] in the text
  int64_t line_number_;
  bool inside_line_ = false;
};

}  // namespace fathom::data

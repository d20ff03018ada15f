// Records of instruction data: the elements of a JSON array, or the lines of .jsonl, each also as .gz or .zst. Which of
// the two a file is its first character says. Read as a stream: memory is one record.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "data/text_stream.h"

namespace fathom::data {

inline constexpr size_t kMaxSftRecordBytes = size_t{256} << 20;

struct SftRecord {
  std::string text;    // JSON, not parsed
  int64_t line = 0;    // where it begins, from 1
  int64_t number = 0;  // in its file, from 0
};

class SftRecordReader {
 public:
  explicit SftRecordReader(const std::filesystem::path& path);
  // False at the end. Throws DataError with file and line: an array that does not go on or ends early, a record of
  // more than kMaxSftRecordBytes, damaged compression; FileError.
  bool next(SftRecord& record);
  uint64_t file_bytes_read() const { return lines_.file_bytes_read(); }

 private:
  enum class Form { unknown, lines, array, ended };
  bool next_line(SftRecord& record);
  bool next_element(SftRecord& record);
  bool fill();        // more text into buffer_
  bool skip_space();  // false: the end of the file
  [[noreturn]] void fail(int64_t line, const std::string& problem) const;

  std::filesystem::path path_;
  LineReader lines_;
  Form form_ = Form::unknown;
  bool is_first_ = true;
  std::string buffer_;  // of the current line, or a part of it
  size_t at_ = 0;
  int64_t line_ = 1, number_ = 0;
};

}  // namespace fathom::data

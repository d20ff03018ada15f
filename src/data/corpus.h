// Documents of a text corpus, in the order of the files. By the name of the file (with or without .gz, .zst):
//   .tokens          WikiText: a document is an article. It begins at a level-1 heading " = Title = " that
//   stands
//                    between blank lines (600, 60 and 60 articles in WikiText-2, as its authors count)
//   .txt             a document is the whole file
//   .jsonl, .json    a document is the string under `json_key` of each line's object
// The text is kept as it stands: nothing is cleaned, no newline is added or removed. Blank documents are left
// out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/text_stream.h"

namespace fathom::data {

enum class CorpusFormat { wikitext, text, jsonl };
CorpusFormat corpus_format(const std::filesystem::path& path);  // throws UsageError: another extension

struct RawDocument {
  std::string text;  // of .jsonl: the line, not parsed yet
  CorpusFormat format = CorpusFormat::text;
  size_t file = 0;    // index into the inputs
  int64_t line = 0;   // of its first byte, from 1
  uint64_t byte = 0;  // the same as offset in the decompressed file
};

class CorpusReader {
 public:
  explicit CorpusReader(std::vector<std::filesystem::path> inputs);

  std::optional<RawDocument> next();  // throws FileError, DataError
  uint64_t file_bytes_read() const;   // over all inputs, as they lie on disk

 private:
  std::optional<RawDocument> next_in_file();
  std::optional<RawDocument> next_article();
  std::optional<RawDocument> next_whole_file();
  bool peek();  // makes ahead_ hold the next line; false at the end of the file
  void append_line(RawDocument& document);

  std::vector<std::filesystem::path> inputs_;
  size_t file_ = 0;
  std::optional<LineReader> reader_;
  uint64_t finished_bytes_ = 0;
  // WikiText needs a line of look-ahead: a heading is one only if a blank line follows.
  struct Line {
    std::string text;
    int64_t number = 0;
    uint64_t begin = 0;
  };
  std::vector<Line> ahead_;  // at most two
  bool previous_blank_ = true;
};

bool is_blank(std::string_view line);
bool is_article_heading(std::string_view line);  // " = Title = "

// The text of a document. Throws DataError naming file, line and byte: JSON that does not parse, no such key,
// no string, bytes that are no UTF-8.
std::string document_text(const RawDocument& document, const std::vector<std::filesystem::path>& inputs,
                          const std::string& json_key);

}  // namespace fathom::data

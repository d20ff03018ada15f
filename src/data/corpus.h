// Documents of a text corpus, in the order of the files. By the name of the file (with or without .gz, .zst):
//   .tokens          WikiText: a document is an article. It begins at a level-1 heading " = Title = " that
//                    stands between blank lines (600, 60 and 60 articles in WikiText-2, as its authors count)
//   .txt             a document is the whole file
//   .jsonl, .json    a document is the string under `json_key` of each line's object
// The text is kept as it stands: nothing is cleaned, no newline is added or removed (CR LF stays). Blank
// documents are left out. Documents come in units: small ones whole, long ones in parts of about kUnitBytes, cut
// where the ids do not change (text_cut.h), so that memory is bounded for documents of any length.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/json_text.h"
#include "data/text_stream.h"

namespace fathom::data {

enum class CorpusFormat { wikitext, text, jsonl };
std::optional<CorpusFormat> known_corpus_format(const std::filesystem::path& path);
CorpusFormat corpus_format(const std::filesystem::path& path);  // throws UsageError: another extension

inline constexpr size_t kUnitBytes = 256 << 10;
// Text in which no place for a cut is found is refused beyond this length.
inline constexpr size_t kMaxUncutBytes = 1 << 20;

// A document or a part of one.
struct TextUnit {
  size_t begin = 0, size = 0;  // in TextBatch::text
  size_t file = 0;             // index into the inputs
  int64_t line = 0;            // of the first byte, from 1
  uint64_t byte = 0;           // the same as offset in the decompressed file
  CorpusFormat format = CorpusFormat::text;
  bool begins_document = true, ends_document = true;
  bool is_json_line = false;  // the text is a line of .jsonl, not parsed yet; else it is text
  std::string error = {};     // not empty: the document is bad, and ends here
};

// A place between units, from which the corpus can be read on.
struct CorpusPosition {
  uint64_t file = 0, byte = 0;
  int64_t line = 1;
  bool in_document = false;
};

struct TextBatch {
  std::string text;
  std::vector<TextUnit> units;
  CorpusPosition end;
  bool is_resumable = true;  // whether reading can go on at `end`: not inside a line of .jsonl
  uint64_t text_bytes = 0,
           file_bytes = 0;  // from the start of the corpus: decompressed to `end`, read on disk
};

class CorpusReader {
 public:
  // The longest prefix of the text that may be cut off, 0 for none.
  using FindCut = std::function<size_t(std::string_view)>;
  // `text_bytes`: of the whole corpus before `start`.
  CorpusReader(std::vector<std::filesystem::path> inputs, std::string json_key, FindCut find_cut,
               const CorpusPosition& start = {}, uint64_t text_bytes = 0);

  // The next units, about `target_bytes` of text together. False at the end. Bad documents are units with an
  // error; after damaged compression the next file follows. Throws FileError.
  bool next(TextBatch& batch, size_t target_bytes);

 private:
  struct Line {
    std::string text;
    int64_t number = 0;
    uint64_t begin = 0;
    bool is_whole = true;
  };
  // A document that is being put together.
  struct Pending {
    std::string text;  // not given out yet
    int64_t line = 0;
    uint64_t byte = 0;
    bool is_begun = false;   // parts of it were given out
    bool is_failed = false;  // its error was given out; the rest of it is passed over
    size_t next_trial = kUnitBytes;
  };
  bool step(TextBatch& batch);
  bool step_json_line(TextBatch& batch);
  bool step_long_json_line(TextBatch& batch);
  bool step_article(TextBatch& batch);
  bool step_text(TextBatch& batch);
  bool read_ahead();
  void begin_pending(int64_t line, uint64_t byte);
  void give_parts(TextBatch& batch);
  void give(TextBatch& batch, size_t size, bool ends);
  void end_document(TextBatch& batch);
  void fail(TextBatch& batch, std::string message);
  void open();
  void close();
  CorpusPosition position() const;

  std::vector<std::filesystem::path> inputs_;
  FindCut find_cut_;
  CorpusPosition start_;
  size_t file_;
  CorpusFormat format_ = CorpusFormat::text;
  std::optional<LineReader> reader_;
  uint64_t finished_file_bytes_ = 0, finished_text_bytes_ = 0;
  Pending pending_;
  // WikiText needs a line of look-ahead: a heading is one only if a blank line follows.
  std::vector<Line> ahead_;  // at most two
  bool previous_blank_ = true;
  JsonTextScanner scanner_;
  bool in_json_line_ = false;
  std::string json_part_;
  std::string utf8_tail_;  // the start of a character at the end of a part of a JSON line
};

bool is_blank(std::string_view line);
bool is_article_heading(std::string_view line);  // " = Title = "

// What is wrong with the bytes of a unit ("FILE: line N (byte B): ..."), empty if nothing: no UTF-8, NUL.
std::string bytes_problem(const TextUnit& unit, std::string_view text, const std::filesystem::path& path);
// The string of a unit that is a JSON line, into `out`; returns what is wrong with it.
std::string json_line_text(const TextUnit& unit, std::string_view line, const std::filesystem::path& path,
                           JsonTextScanner& scanner, std::string& out);

}  // namespace fathom::data

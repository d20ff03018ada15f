#include "data/corpus.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace fathom::data {
namespace {

std::string place(const std::filesystem::path& path, int64_t line, uint64_t byte) {
  return fmt::format("{}: line {} (byte {})", path.string(), line, byte);
}

// The bytes at the end of `text` that are the start of a character, at most three.
size_t incomplete_tail(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto lead = static_cast<unsigned char>(text[text.size() - back]);
    if ((lead & 0xC0) == 0x80) continue;
    const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

std::string utf8_problem(unsigned char byte, bool at_start) {
  const bool is_utf16 = at_start && (byte == 0xFF || byte == 0xFE);
  return fmt::format(
      "byte 0x{:02x} is not valid UTF-8{}: convert the file, or leave the document out with --on-error skip",
      byte, is_utf16 ? " (the file looks like UTF-16)" : "");
}

constexpr const char* kNulProblem =
    "a NUL character: the file is binary or damaged; mend it, or leave the document out with --on-error skip";

}  // namespace

std::optional<CorpusFormat> known_corpus_format(const std::filesystem::path& path) {
  const std::string extension = without_compression(path).extension().string();
  if (extension == ".tokens") return CorpusFormat::wikitext;
  if (extension == ".txt") return CorpusFormat::text;
  if (extension == ".jsonl" || extension == ".json") return CorpusFormat::jsonl;
  return std::nullopt;
}

CorpusFormat corpus_format(const std::filesystem::path& path) {
  if (const auto format = known_corpus_format(path)) return *format;
  throw UsageError(
      "{}: its name does not say what it is: .tokens (WikiText), .txt or .jsonl, each also as .gz or .zst",
      path.string());
}

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos;
}

bool is_article_heading(std::string_view line) {
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.remove_suffix(1);
  if (!line.starts_with(" = ") || !line.ends_with(" = ") || line.size() < 7) return false;
  const std::string_view title = line.substr(3, line.size() - 6);
  return title.front() != '=' && title.back() != '=';
}

CorpusReader::CorpusReader(std::vector<std::filesystem::path> inputs, std::string json_key, FindCut find_cut,
                           const CorpusPosition& start, uint64_t text_bytes)
    : inputs_(std::move(inputs)),
      find_cut_(std::move(find_cut)),
      start_(start),
      file_(start.file),
      finished_text_bytes_(text_bytes - start.byte),
      scanner_(std::move(json_key)) {
  for (const auto& path : inputs_) corpus_format(path);
  for (size_t i = 0; i < std::min(file_, inputs_.size()); ++i)
    finished_file_bytes_ += std::filesystem::file_size(inputs_[i]);
}

bool CorpusReader::next(TextBatch& batch, size_t target_bytes) {
  batch.text.clear();
  batch.units.clear();
  while (file_ < inputs_.size() && batch.text.size() + batch.units.size() * sizeof(TextUnit) < target_bytes) {
    bool is_open = true;
    try {
      if (!reader_) open();
      is_open = step(batch);
    } catch (const DataError& e) {
      // The compression is damaged: what was complete before is kept.
      fail(batch, reader_ ? fmt::format("{} (line {}, byte {} of the text)", e.what(), reader_->next_line(),
                                        reader_->next_byte())
                          : e.what());
      is_open = false;
    }
    if (!is_open) close();
  }
  batch.end = position();
  batch.is_resumable = !in_json_line_ && !pending_.is_failed;
  batch.text_bytes = finished_text_bytes_ + batch.end.byte;
  batch.file_bytes = finished_file_bytes_ + (reader_ ? reader_->file_bytes_read() : 0);
  return file_ < inputs_.size() || !batch.units.empty();
}

void CorpusReader::open() {
  const bool is_resumed = start_.file == file_ && start_.byte > 0;
  format_ = corpus_format(inputs_[file_]);
  pending_ = {};
  ahead_.clear();
  previous_blank_ = true;
  if (!is_resumed) {
    reader_.emplace(inputs_[file_]);
    return;
  }
  pending_.is_begun = start_.in_document;
  previous_blank_ = !start_.in_document;
  reader_.emplace(inputs_[file_], start_.byte, start_.line);
}

void CorpusReader::close() {
  if (reader_) {
    finished_file_bytes_ += reader_->file_bytes_read();
    finished_text_bytes_ += reader_->next_byte();
  }
  reader_.reset();
  pending_ = {};
  ahead_.clear();
  in_json_line_ = false;
  start_ = {inputs_.size()};
  ++file_;
}

CorpusPosition CorpusReader::position() const {
  if (!reader_) return {file_};
  if (!pending_.text.empty()) return {file_, pending_.byte, pending_.line, pending_.is_begun};
  if (!ahead_.empty()) return {file_, ahead_.front().begin, ahead_.front().number, pending_.is_begun};
  return {file_, reader_->next_byte(), reader_->next_line(), pending_.is_begun};
}

bool CorpusReader::step(TextBatch& batch) {
  switch (format_) {
    case CorpusFormat::wikitext:
      return step_article(batch);
    case CorpusFormat::text:
      return step_text(batch);
    case CorpusFormat::jsonl:
      break;
  }
  return in_json_line_ ? step_long_json_line(batch) : step_json_line(batch);
}

bool CorpusReader::step_json_line(TextBatch& batch) {
  TextUnit unit;
  unit.begin = batch.text.size();
  unit.file = file_;
  unit.line = reader_->next_line();
  unit.byte = reader_->next_byte();
  const LineReader::Part part = reader_->append(batch.text, kUnitBytes);
  if (part == LineReader::Part::none) return false;
  if (part == LineReader::Part::piece) {
    json_part_.assign(batch.text, unit.begin);
    batch.text.resize(unit.begin);
    in_json_line_ = true;
    utf8_tail_.clear();
    scanner_.start();
    pending_ = {};
    begin_pending(unit.line, unit.byte);
    return step_long_json_line(batch);
  }
  unit.size = batch.text.size() - unit.begin;
  if (is_blank(std::string_view(batch.text).substr(unit.begin))) {
    batch.text.resize(unit.begin);
    return true;
  }
  unit.format = format_;
  unit.is_json_line = true;
  batch.units.push_back(std::move(unit));
  return true;
}

// Takes the part of the line in json_part_, or the next one.
bool CorpusReader::step_long_json_line(TextBatch& batch) {
  LineReader::Part part = LineReader::Part::piece;
  if (json_part_.empty()) part = reader_->append(json_part_, kUnitBytes);
  const bool ends = part != LineReader::Part::piece;
  if (!pending_.is_failed) {
    const std::string_view checked = utf8_tail_.append(json_part_);
    const size_t tail = ends ? 0 : incomplete_tail(checked);
    const size_t bad = tokenizer::find_invalid_utf8(checked.substr(0, checked.size() - tail));
    if (bad != std::string_view::npos) {
      const uint64_t begin = reader_->next_byte() - checked.size();
      fail(batch, place(inputs_[file_], pending_.line, begin + bad) + ": " +
                      utf8_problem(static_cast<unsigned char>(checked[bad]), false));
    }
    utf8_tail_.erase(0, utf8_tail_.size() - tail);
  }
  if (!pending_.is_failed) {
    const bool fine = scanner_.feed(json_part_, pending_.text) && (!ends || scanner_.finish());
    if (!fine) fail(batch, place(inputs_[file_], pending_.line, pending_.byte) + ": " + scanner_.problem());
  }
  json_part_.clear();
  if (!pending_.is_failed) give_parts(batch);
  if (ends) {
    in_json_line_ = false;
    end_document(batch);
  }
  return part != LineReader::Part::none;
}

bool CorpusReader::step_text(TextBatch& batch) {
  begin_pending(reader_->next_line(), reader_->next_byte());
  const LineReader::Part part = reader_->append(pending_.text, kUnitBytes);
  if (part == LineReader::Part::none) {
    end_document(batch);
    return false;
  }
  give_parts(batch);
  return true;
}

bool CorpusReader::read_ahead() {
  Line line;
  line.number = reader_->next_line();
  line.begin = reader_->next_byte();
  const bool is_start = !reader_->inside_line();
  const LineReader::Part part = reader_->append(line.text, kUnitBytes);
  if (part == LineReader::Part::none) return false;
  line.is_whole = is_start && part == LineReader::Part::line;
  ahead_.push_back(std::move(line));
  return true;
}

bool CorpusReader::step_article(TextBatch& batch) {
  if (ahead_.empty() && !read_ahead()) {
    end_document(batch);
    return false;
  }
  const bool is_document_open = pending_.is_begun || pending_.is_failed || !pending_.text.empty();
  if (previous_blank_ && is_document_open && ahead_[0].is_whole && is_article_heading(ahead_[0].text)) {
    if (ahead_.size() < 2) read_ahead();
    if (ahead_.size() < 2 || (ahead_[1].is_whole && is_blank(ahead_[1].text))) end_document(batch);
  }
  const Line& line = ahead_.front();
  begin_pending(line.number, line.begin);
  pending_.text += line.text;
  previous_blank_ = line.is_whole && is_blank(line.text);
  ahead_.erase(ahead_.begin());
  give_parts(batch);
  return true;
}

void CorpusReader::begin_pending(int64_t line, uint64_t byte) {
  if (!pending_.text.empty()) return;
  pending_.line = line;
  pending_.byte = byte;
}

void CorpusReader::give_parts(TextBatch& batch) {
  if (pending_.is_failed) pending_.text.clear();
  while (pending_.text.size() >= pending_.next_trial) {
    const size_t cut = find_cut_(pending_.text);
    if (cut > 0) {
      give(batch, cut, false);
      pending_.next_trial = kUnitBytes;
    } else if (pending_.text.size() > kMaxUncutBytes) {
      fail(batch, fmt::format(
                      "{}: {} bytes of text without a place where it can be cut (a line end, a space between "
                      "words): the limit is {} MiB; break the document up, or leave it out with "
                      "--on-error skip",
                      place(inputs_[file_], pending_.line, pending_.byte), pending_.text.size(),
                      kMaxUncutBytes >> 20));
      return;
    } else {
      pending_.next_trial = pending_.text.size() * 2;
    }
  }
}

void CorpusReader::give(TextBatch& batch, size_t size, bool ends) {
  TextUnit unit;
  unit.begin = batch.text.size();
  unit.size = size;
  unit.file = file_;
  unit.line = pending_.line;
  unit.byte = pending_.byte;
  unit.format = format_;
  unit.begins_document = !pending_.is_begun;
  unit.ends_document = ends;
  batch.text.append(pending_.text, 0, size);
  batch.units.push_back(std::move(unit));
  pending_.is_begun = true;
  if (!in_json_line_) {
    pending_.line +=
        std::count(pending_.text.begin(), pending_.text.begin() + static_cast<std::ptrdiff_t>(size), '\n');
    pending_.byte += size;
  }
  pending_.text.erase(0, size);
}

void CorpusReader::end_document(TextBatch& batch) {
  if (!pending_.is_failed && (pending_.is_begun || !is_blank(pending_.text)))
    give(batch, pending_.text.size(), true);
  pending_ = {};
}

void CorpusReader::fail(TextBatch& batch, std::string message) {
  if (pending_.is_failed) return;
  TextUnit unit;
  unit.begin = batch.text.size();
  unit.file = file_;
  unit.line = pending_.line;
  unit.byte = pending_.byte;
  unit.format = format_;
  unit.begins_document = !pending_.is_begun;
  unit.error = std::move(message);
  batch.units.push_back(std::move(unit));
  pending_.text.clear();
  pending_.is_failed = true;
}

std::string bytes_problem(const TextUnit& unit, std::string_view text, const std::filesystem::path& path) {
  const size_t bad = std::min(tokenizer::find_invalid_utf8(text), text.find('\0'));
  if (bad == std::string_view::npos) return "";
  const auto end = text.begin() + static_cast<std::ptrdiff_t>(bad);
  const auto byte = static_cast<unsigned char>(text[bad]);
  return place(path, unit.line + std::count(text.begin(), end, '\n'), unit.byte + bad) + ": " +
         (byte == 0 ? kNulProblem : utf8_problem(byte, unit.byte + bad == 0));
}

std::string json_line_text(const TextUnit& unit, std::string_view line, const std::filesystem::path& path,
                           JsonTextScanner& scanner, std::string& out) {
  out.clear();
  scanner.start();
  if (scanner.feed(line, out) && scanner.finish())
    return out.find('\0') == std::string::npos ? "" : place(path, unit.line, unit.byte) + ": " + kNulProblem;
  return place(path, unit.line, unit.byte) + ": " + scanner.problem();
}

}  // namespace fathom::data

#include "data/corpus.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/suggest.h"
#include "tokenizer/utf8.h"

namespace fathom::data {
namespace {

std::string place(const RawDocument& document, const std::vector<std::filesystem::path>& inputs) {
  return fmt::format("{}: line {} (byte {})", inputs[document.file].string(), document.line, document.byte);
}

void check_utf8(const RawDocument& document, const std::vector<std::filesystem::path>& inputs) {
  const size_t bad = tokenizer::find_invalid_utf8(document.text);
  if (bad == std::string_view::npos) return;
  const auto end = document.text.begin() + static_cast<std::ptrdiff_t>(bad);
  throw DataError(
      "{}: line {} (byte {}): byte 0x{:02x} is not valid UTF-8: convert the file, or leave the document out "
      "with --on-error skip",
      inputs[document.file].string(), document.line + std::count(document.text.begin(), end, '\n'),
      document.byte + bad, static_cast<unsigned char>(document.text[bad]));
}

}  // namespace

CorpusFormat corpus_format(const std::filesystem::path& path) {
  const std::string extension = without_compression(path).extension().string();
  if (extension == ".tokens") return CorpusFormat::wikitext;
  if (extension == ".txt") return CorpusFormat::text;
  if (extension == ".jsonl" || extension == ".json") return CorpusFormat::jsonl;
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

CorpusReader::CorpusReader(std::vector<std::filesystem::path> inputs) : inputs_(std::move(inputs)) {
  for (const auto& path : inputs_) corpus_format(path);
}

uint64_t CorpusReader::file_bytes_read() const {
  return finished_bytes_ + (reader_ ? reader_->file_bytes_read() : 0);
}

std::optional<RawDocument> CorpusReader::next() {
  while (file_ < inputs_.size()) {
    if (!reader_) {
      reader_.emplace(inputs_[file_]);
      ahead_.clear();
      previous_blank_ = true;
    }
    if (auto document = next_in_file()) return document;
    finished_bytes_ += reader_->file_bytes_read();
    reader_.reset();
    ++file_;
  }
  return std::nullopt;
}

std::optional<RawDocument> CorpusReader::next_in_file() {
  const CorpusFormat format = corpus_format(inputs_[file_]);
  if (format == CorpusFormat::wikitext) return next_article();
  if (format == CorpusFormat::text) return next_whole_file();
  RawDocument document;
  while (reader_->next(document.text)) {
    if (is_blank(document.text)) continue;
    document.format = format;
    document.file = file_;
    document.line = reader_->line_number();
    document.byte = reader_->line_begin();
    return document;
  }
  return std::nullopt;
}

bool CorpusReader::peek() {
  if (!ahead_.empty()) return true;
  Line line;
  if (!reader_->next(line.text)) return false;
  line.number = reader_->line_number();
  line.begin = reader_->line_begin();
  ahead_.push_back(std::move(line));
  return true;
}

void CorpusReader::append_line(RawDocument& document) {
  Line& line = ahead_.front();
  if (document.text.empty()) {
    document.line = line.number;
    document.byte = line.begin;
  }
  document.text += line.text;
  if (document.text.size() > kMaxTextBytes)
    throw DataError("{}: the document that begins in line {} is longer than {} bytes: cut it",
                    inputs_[file_].string(), document.line, kMaxTextBytes);
  previous_blank_ = is_blank(line.text);
  ahead_.erase(ahead_.begin());
}

std::optional<RawDocument> CorpusReader::next_article() {
  RawDocument document;
  document.format = CorpusFormat::wikitext;
  document.file = file_;
  while (peek()) {
    if (previous_blank_ && is_article_heading(ahead_.front().text) && !document.text.empty()) {
      if (ahead_.size() < 2) {
        Line after;
        if (reader_->next(after.text)) {
          after.number = reader_->line_number();
          after.begin = reader_->line_begin();
          ahead_.push_back(std::move(after));
        }
      }
      if (ahead_.size() < 2 || is_blank(ahead_[1].text)) {
        if (!is_blank(document.text)) return document;
        document.text.clear();  // blank lines before the first article
      }
    }
    append_line(document);
  }
  if (is_blank(document.text)) return std::nullopt;
  return document;
}

std::optional<RawDocument> CorpusReader::next_whole_file() {
  RawDocument document;
  document.file = file_;
  while (peek()) append_line(document);
  if (is_blank(document.text)) return std::nullopt;
  return document;
}

std::string document_text(const RawDocument& document, const std::vector<std::filesystem::path>& inputs,
                          const std::string& json_key) {
  check_utf8(document, inputs);
  if (document.format != CorpusFormat::jsonl) return document.text;
  SortedJson object;
  try {
    object = parse_sorted_json(document.text, place(document, inputs));
  } catch (const ConfigError& e) {
    throw DataError("{}", e.what());
  }
  if (!object.is_object())
    throw DataError("{}: the line is no JSON object: each line must be one, such as {{\"{}\": \"...\"}}",
                    place(document, inputs), json_key);
  const auto found = object.find(json_key);
  if (found == object.end()) {
    std::vector<std::string> keys;
    for (const auto& [key, unused] : object.items()) keys.push_back(key);
    const std::string near = nearest(json_key, keys);
    throw DataError("{}: no key \"{}\"{}: name the key with --json-key", place(document, inputs), json_key,
                    near.empty() ? "" : " (did you mean \"" + near + "\"?)");
  }
  if (!found->is_string()) throw DataError("{}: \"{}\" is no string", place(document, inputs), json_key);
  return found->get<std::string>();
}

}  // namespace fathom::data

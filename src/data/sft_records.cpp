#include "data/sft_records.h"

#include "base/error.h"

namespace fathom::data {
namespace {

constexpr size_t kPartBytes = 1 << 20;
constexpr std::string_view kSpace = " \t\r\n";

}  // namespace

SftRecordReader::SftRecordReader(const std::filesystem::path& path) : path_(path), lines_(path) {}

void SftRecordReader::fail(int64_t line, const std::string& problem) const {
  throw DataError("{}: line {}: {}", path_.string(), line, problem);
}

bool SftRecordReader::fill() {
  buffer_.clear();
  at_ = 0;
  if (lines_.append(buffer_, kPartBytes) == LineReader::Part::none) return false;
  line_ = lines_.line_number();
  return true;
}

bool SftRecordReader::skip_space() {
  while (true) {
    at_ = buffer_.find_first_not_of(kSpace, at_);
    if (at_ != std::string::npos) return true;
    if (!fill()) return false;
  }
}

bool SftRecordReader::next(SftRecord& record) {
  if (form_ == Form::unknown) {
    if (!skip_space()) {
      form_ = Form::ended;
    } else if (buffer_[at_] == '[') {
      ++at_;
      form_ = Form::array;
    } else {
      form_ = Form::lines;
    }
  }
  if (form_ == Form::ended) return false;
  return form_ == Form::lines ? next_line(record) : next_element(record);
}

bool SftRecordReader::next_line(SftRecord& record) {
  if (!skip_space()) return false;
  record.text.assign(buffer_, at_);
  record.line = line_;
  record.number = number_++;
  at_ = buffer_.size();
  while (lines_.inside_line()) {
    if (record.text.size() > kMaxSftRecordBytes)
      fail(record.line, fmt::format("it is longer than {} bytes", kMaxSftRecordBytes));
    fill();
    record.text += buffer_;
    at_ = buffer_.size();
  }
  record.text.erase(record.text.find_last_not_of(kSpace) + 1);
  return true;
}

bool SftRecordReader::next_element(SftRecord& record) {
  const auto end_of_array = [&] {
    ++at_;
    if (skip_space()) fail(line_, "something stands behind the end of the list");
    form_ = Form::ended;
    return false;
  };
  const char* const cut_off = "the file ends inside its list: it is cut off";
  if (!skip_space()) fail(line_, cut_off);
  if (is_first_ && buffer_[at_] == ']') return end_of_array();
  if (!is_first_) {
    if (buffer_[at_] == ']') return end_of_array();
    if (buffer_[at_] != ',')
      fail(line_, fmt::format("expected a comma or the end of the list behind item {}", number_ - 1));
    ++at_;
    if (!skip_space()) fail(line_, cut_off);
  }
  is_first_ = false;
  record.text.clear();
  record.line = line_;
  record.number = number_++;
  int64_t depth = 0;
  bool in_string = false, is_escaped = false;
  while (true) {
    size_t begin = at_;
    for (; at_ < buffer_.size(); ++at_) {
      const char c = buffer_[at_];
      if (in_string) {
        if (is_escaped)
          is_escaped = false;
        else if (c == '\\')
          is_escaped = true;
        else if (c == '"')
          in_string = false;
      } else if (c == '"') {
        in_string = true;
      } else if (c == '{' || c == '[') {
        ++depth;
      } else if (depth > 0 && (c == '}' || c == ']')) {
        --depth;
      } else if (depth == 0 && (c == ',' || c == ']' || c == '}')) {
        record.text.append(buffer_, begin, at_ - begin);
        record.text.erase(record.text.find_last_not_of(kSpace) + 1);
        return true;
      }
    }
    record.text.append(buffer_, begin, at_ - begin);
    if (record.text.size() > kMaxSftRecordBytes)
      fail(record.line, fmt::format("item {} is longer than {} bytes", record.number, kMaxSftRecordBytes));
    if (!fill())
      fail(record.line, fmt::format("the file ends inside item {}, which begins here", record.number));
  }
}

}  // namespace fathom::data

#include "tokenizer/json_reader.h"

#include <cstring>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace fathom::tokenizer {

void JsonReader::fail(const std::string& what) const {
  throw ConfigError("{}: not valid JSON at byte {}: {}", where_, at_, what);
}

void JsonReader::skip_space() {
  while (at_ < text_.size()) {
    const char c = text_[at_];
    if (c != ' ' && c != '\n' && c != '\r' && c != '\t') break;
    ++at_;
  }
}

char JsonReader::peek() {
  skip_space();
  if (at_ >= text_.size()) fail("the text ends in the middle of a value");
  return text_[at_];
}

void JsonReader::expect(char c) {
  if (peek() != c) fail(std::string("expected '") + c + "'");
  ++at_;
}

void JsonReader::begin_object() {
  expect('{');
  first_ = true;
}

void JsonReader::begin_array() {
  expect('[');
  first_ = true;
}

bool JsonReader::next_item(char close) {
  if (peek() == close) {
    ++at_;
    first_ = false;
    return false;
  }
  if (!first_) {
    expect(',');
    if (peek() == close) fail("a comma with nothing behind it");
  }
  first_ = false;
  return true;
}

bool JsonReader::next_element() { return next_item(']'); }

bool JsonReader::next_key(std::string_view& key) {
  if (!next_item('}')) return false;
  key = string();
  expect(':');
  return true;
}

std::string_view JsonReader::string() {
  expect('"');
  const size_t begin = at_;
  while (at_ < text_.size()) {
    const auto c = static_cast<unsigned char>(text_[at_]);
    if (c == '"') return text_.substr(begin, at_++ - begin);
    if (c == '\\') break;
    if (c < 0x20) fail("a control character inside a string");
    ++at_;
  }
  buffer_.assign(text_.substr(begin, at_ - begin));
  while (at_ < text_.size()) {
    const auto c = static_cast<unsigned char>(text_[at_]);
    if (c == '"') {
      ++at_;
      return buffer_;
    }
    if (c < 0x20) fail("a control character inside a string");
    ++at_;
    if (c == '\\')
      append_escape();
    else
      buffer_ += static_cast<char>(c);
  }
  fail("a string that is not closed");
}

void JsonReader::append_escape() {
  const auto four_digits = [&]() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = at_ < text_.size() ? text_[at_] : '\0';
      const char* const digits = "0123456789abcdef";
      const char* const digit = c == '\0' ? nullptr : std::strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c);
      if (digit == nullptr) fail("a malformed \\u escape");
      value = value * 16 + static_cast<uint32_t>(digit - digits);
    }
    return value;
  };
  if (at_ >= text_.size()) fail("a string that is not closed");
  const char c = text_[at_++];
  switch (c) {
    case '"':
    case '\\':
    case '/':
      buffer_ += c;
      break;
    case 'b':
      buffer_ += '\b';
      break;
    case 'f':
      buffer_ += '\f';
      break;
    case 'n':
      buffer_ += '\n';
      break;
    case 'r':
      buffer_ += '\r';
      break;
    case 't':
      buffer_ += '\t';
      break;
    case 'u': {
      uint32_t value = four_digits();
      if (value >= 0xD800 && value < 0xDC00) {
        if (text_.substr(at_, 2) != "\\u") fail("half of a surrogate pair");
        at_ += 2;
        const uint32_t low = four_digits();
        if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair");
        value = 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
      } else if (value >= 0xDC00 && value < 0xE000) {
        fail("half of a surrogate pair");
      }
      append_utf8(buffer_, value);
      break;
    }
    default:
      --at_;
      fail("an unknown escape");
  }
}

int64_t JsonReader::integer() {
  peek();
  const bool negative = text_[at_] == '-';
  if (negative) ++at_;
  int64_t value = 0;
  size_t digits = 0;
  while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
    value = value * 10 + (text_[at_++] - '0');
    if (++digits > 17) fail("a number that is too large");
  }
  if (digits == 0 || (at_ < text_.size() && std::strchr(".eE", text_[at_]) != nullptr && text_[at_] != '\0'))
    fail("expected a whole number");
  return negative ? -value : value;
}

std::string_view JsonReader::value_text() {
  peek();
  const size_t begin = at_;
  // Brackets are counted, not matched by kind: the caller parses the slice properly.
  size_t depth = 0;
  do {
    const char c = peek();
    if (c == '"') {
      string();
    } else if (c == '{' || c == '[') {
      ++depth;
      ++at_;
      continue;
    } else if (c == '}' || c == ']') {
      if (depth == 0) fail("a value is missing");
      --depth;
      ++at_;
    } else if (c == ',' || c == ':') {
      if (depth == 0) fail("a value is missing");
      ++at_;
    } else {
      const size_t word = at_;
      while (at_ < text_.size() && std::strchr(" \n\r\t,:]}\"{[", text_[at_]) == nullptr) ++at_;
      if (at_ == word) fail("a byte that belongs to no value");
    }
  } while (depth > 0);
  first_ = false;
  return text_.substr(begin, at_ - begin);
}

void JsonReader::end() {
  skip_space();
  if (at_ < text_.size()) fail("something stands behind the end");
}

}  // namespace fathom::tokenizer

#include "data/json_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/suggest.h"
#include "tokenizer/utf8.h"

namespace fathom::data {
namespace {

constexpr size_t kMaxDepth = 512;
constexpr size_t kMaxKeyBytes = 1024, kMaxKeys = 64;

// Bytes that a string takes as they are.
constexpr std::array<bool, 256> kPlain = [] {
  std::array<bool, 256> plain{};
  for (size_t i = 0x20; i < 256; ++i) plain[i] = i != '"' && i != '\\';
  return plain;
}();

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

void JsonTextScanner::start() {
  problem_.clear();
  keys_.clear();
  is_object_.clear();
  state_ = State::value;
  offset_ = 0;
  high_surrogate_ = 0;
  in_key_ = wanted_ = captures_ = found_ = false;
}

bool JsonTextScanner::refuse(std::string_view what) {
  if (problem_.empty()) problem_ = fmt::format("not valid JSON at byte {} of the line: {}", offset_, what);
  return false;
}

bool JsonTextScanner::begin_value(char c) {
  const bool is_top = is_object_.empty(), is_wanted = wanted_;
  wanted_ = false;
  if (is_top && c != '{') {
    // Another kind of value, or no JSON at all: both are said to be no object.
    problem_ =
        fmt::format("the line is no JSON object: each line must be one, such as {{\"{}\": \"...\"}}", key_);
    return false;
  }
  if (is_wanted && c != '"') {
    problem_ = fmt::format("\"{}\" is no string", key_);
    return false;
  }
  if (c == '"') {
    captures_ = is_wanted;
    found_ = found_ || is_wanted;
    return begin_string(false);
  }
  if (c == '{' || c == '[') {
    if (is_object_.size() == kMaxDepth) return refuse(fmt::format("nested deeper than {}", kMaxDepth));
    is_object_.push_back(c == '{');
    state_ = c == '{' ? State::first_key : State::first_element;
    return true;
  }
  if (c == 't' || c == 'f' || c == 'n') {
    literal_ = c == 't' ? "rue" : c == 'f' ? "alse" : "ull";
    state_ = State::literal;
    return true;
  }
  if (c == '-' || is_digit(c)) {
    number_ = c == '-' ? Number::minus : c == '0' ? Number::zero : Number::integer;
    state_ = State::number;
    return true;
  }
  return refuse("expected a value");
}

bool JsonTextScanner::end_value() {
  state_ = is_object_.empty() ? State::done : State::after_value;
  return true;
}

bool JsonTextScanner::begin_string(bool is_key) {
  in_key_ = is_key;
  if (is_key) current_key_.clear();
  high_surrogate_ = 0;
  state_ = State::string;
  return true;
}

bool JsonTextScanner::end_string() {
  if (high_surrogate_ != 0) return refuse("half of a surrogate pair");
  if (!in_key_) {
    captures_ = false;
    return end_value();
  }
  in_key_ = false;
  state_ = State::colon;
  if (is_object_.size() != 1) return true;
  wanted_ = current_key_ == key_;
  if (wanted_ && found_) {
    problem_ = fmt::format("the key \"{}\" stands twice", key_);
    return false;
  }
  if (!wanted_ && keys_.size() < kMaxKeys) keys_.push_back(current_key_);
  return true;
}

void JsonTextScanner::put(std::string_view bytes, std::string& out) {
  if (captures_) {
    out += bytes;
  } else if (in_key_ && is_object_.size() == 1) {
    // One byte more than is of interest shows that the key is another.
    const size_t most = std::max(kMaxKeyBytes, key_.size()) + 1;
    current_key_ += bytes.substr(0, most - std::min(most, current_key_.size()));
  }
}

bool JsonTextScanner::take_escape(char c, std::string& out) {
  state_ = State::string;
  if (c == 'u') {
    unicode_ = 0;
    unicode_digits_ = 0;
    state_ = State::unicode;
    return true;
  }
  if (high_surrogate_ != 0) return refuse("half of a surrogate pair");
  static constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
  const size_t at = kNames.find(c);
  if (at == std::string_view::npos) return refuse("no such escape");
  put(kValues.substr(at, 1), out);
  return true;
}

bool JsonTextScanner::take_unicode(char c, std::string& out) {
  const int digit = is_digit(c)              ? c - '0'
                    : (c >= 'a' && c <= 'f') ? c - 'a' + 10
                    : (c >= 'A' && c <= 'F') ? c - 'A' + 10
                                             : -1;
  if (digit < 0) return refuse("expected four hexadecimal digits");
  unicode_ = unicode_ * 16 + static_cast<uint32_t>(digit);
  if (++unicode_digits_ < 4) return true;
  state_ = State::string;
  const bool is_low = unicode_ >= 0xDC00 && unicode_ <= 0xDFFF;
  if (is_low != (high_surrogate_ != 0)) return refuse("half of a surrogate pair");
  if (unicode_ >= 0xD800 && unicode_ <= 0xDBFF) {
    high_surrogate_ = unicode_;
    return true;
  }
  std::string character;
  tokenizer::append_utf8(
      character, is_low ? 0x10000 + ((high_surrogate_ - 0xD800) << 10) + (unicode_ - 0xDC00) : unicode_);
  high_surrogate_ = 0;
  put(character, out);
  return true;
}

bool JsonTextScanner::take_number(char c, bool& is_part) {
  is_part = true;
  const bool digit = is_digit(c);
  switch (number_) {
    case Number::minus:
      if (!digit) return refuse("expected a digit");
      number_ = c == '0' ? Number::zero : Number::integer;
      return true;
    case Number::integer:
      if (digit) return true;
      [[fallthrough]];
    case Number::zero:
      if (c == '.') return number_ = Number::point, true;
      if (c == 'e' || c == 'E') return number_ = Number::exponent, true;
      break;
    case Number::point:
      if (!digit) return refuse("expected a digit");
      return number_ = Number::fraction, true;
    case Number::fraction:
      if (digit) return true;
      if (c == 'e' || c == 'E') return number_ = Number::exponent, true;
      break;
    case Number::exponent:
      if (c == '+' || c == '-') return number_ = Number::exponent_sign, true;
      [[fallthrough]];
    case Number::exponent_sign:
      if (!digit) return refuse("expected a digit");
      return number_ = Number::exponent_digits, true;
    case Number::exponent_digits:
      if (digit) return true;
      break;
  }
  is_part = false;
  return end_value();
}

bool JsonTextScanner::feed(std::string_view bytes, std::string& out) {
  if (!problem_.empty()) return false;
  const uint64_t base = offset_;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const char c = bytes[i];
    offset_ = base + i;
    bool fine = true;
    switch (state_) {
      case State::string: {
        size_t end = i;
        while (end < bytes.size() && kPlain[static_cast<unsigned char>(bytes[end])]) ++end;
        if (end > i) {
          if (high_surrogate_ != 0) return refuse("half of a surrogate pair");
          put(bytes.substr(i, end - i), out);
        }
        if (end == bytes.size()) {
          i = end - 1;
          continue;
        }
        i = end;
        offset_ = base + i;
        if (bytes[end] == '"') {
          fine = end_string();
        } else if (bytes[end] == '\\') {
          state_ = State::escape;
        } else {
          fine = refuse("a control character inside a string");
        }
        break;
      }
      case State::escape:
        fine = take_escape(c, out);
        break;
      case State::unicode:
        fine = take_unicode(c, out);
        break;
      case State::literal:
        fine = c == *literal_ || refuse("expected true, false or null");
        if (fine && *++literal_ == '\0') fine = end_value();
        break;
      case State::number: {
        bool is_part = true;
        fine = take_number(c, is_part);
        if (fine && !is_part) --i;  // the byte belongs to what follows
        break;
      }
      default:
        if (is_space(c)) break;
        switch (state_) {
          case State::first_element:
            if (c == ']') {
              is_object_.pop_back();
              fine = end_value();
              break;
            }
            [[fallthrough]];
          case State::value:
            fine = begin_value(c);
            break;
          case State::first_key:
          case State::key:
            if (c == '}' && state_ == State::first_key) {
              is_object_.pop_back();
              fine = end_value();
            } else {
              fine = c == '"' ? begin_string(true) : refuse("expected a key");
            }
            break;
          case State::colon:
            fine = c == ':' || refuse("expected ':'");
            state_ = State::value;
            break;
          case State::after_value: {
            const bool in_object = is_object_.back();
            if (c == ',') {
              state_ = in_object ? State::key : State::value;
            } else if (c == (in_object ? '}' : ']')) {
              is_object_.pop_back();
              fine = end_value();
            } else {
              fine = refuse(in_object ? "expected ',' or '}'" : "expected ',' or ']'");
            }
            break;
          }
          default:
            fine = refuse("something follows the object");
        }
    }
    if (!fine) return false;
  }
  offset_ = base + bytes.size();
  return true;
}

bool JsonTextScanner::finish() {
  if (!problem_.empty()) return false;
  if (state_ != State::done) return refuse("it ends early");
  if (found_) return true;
  const std::string near = nearest(key_, keys_);
  problem_ = fmt::format("no key \"{}\"{}: name the key with --json-key", key_,
                         near.empty() ? "" : " (did you mean \"" + near + "\"?)");
  return false;
}

}  // namespace fathom::data

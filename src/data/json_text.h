// The string under one key of a JSON object, taken out while the bytes come in: memory does not grow with the
// object, and nothing but the string is kept. The whole of it is checked (RFC 8259).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fathom::data {

class JsonTextScanner {
 public:
  explicit JsonTextScanner(std::string key) : key_(std::move(key)) {}

  void start();  // a new object
  // Takes the next bytes, cut anywhere, and appends what they hold of the string to `out`, decoded. False: the
  // object is refused, see problem(). Bytes are not checked to be UTF-8.
  bool feed(std::string_view bytes, std::string& out);
  bool finish();  // after the last byte
  const std::string& problem() const { return problem_; }

 private:
  // clang-format off
  enum class State : uint8_t {
    value, first_key, key, colon, after_value, first_element, string, escape, unicode, literal, number, done
  };
  enum class Number : uint8_t { minus, zero, integer, point, fraction, exponent, exponent_sign, exponent_digits };
  // clang-format on
  bool refuse(std::string_view what);
  bool begin_value(char c);
  bool end_value();
  bool begin_string(bool is_key);
  bool end_string();
  bool take_escape(char c, std::string& out);
  bool take_unicode(char c, std::string& out);
  bool take_number(char c, bool& is_part);
  void put(std::string_view bytes, std::string& out);

  std::string key_, current_key_, problem_;
  std::vector<std::string> keys_;     // seen at the top, for the suggestion
  std::vector<bool> is_object_ = {};  // open containers
  State state_ = State::value;
  Number number_ = Number::minus;
  const char* literal_ = nullptr;
  uint64_t offset_ = 0;
  uint32_t unicode_ = 0, high_surrogate_ = 0;
  int unicode_digits_ = 0;
  bool in_key_ = false, wanted_ = false, captures_ = false, found_ = false;
};

}  // namespace fathom::data

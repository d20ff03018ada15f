#include "config/json_reader.h"

#include <cmath>

#include "base/error.h"

namespace fathom::config {
namespace {

constexpr double kExactIntegers = 9007199254740992.0;  // 2^53: beyond it a double does not hold every integer

std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

}  // namespace

JsonReader::JsonReader(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object_.is_object())
    throw ConfigError("{}: must be an object of keys, not {}", where_, shown(object_));
}

const Json* JsonReader::find(const std::string& key) const {
  const auto entry = object_.find(key);
  return entry == object_.end() || entry->is_null() ? nullptr : &*entry;
}

bool JsonReader::is_null(const std::string& key) const {
  const auto entry = object_.find(key);
  return entry != object_.end() && entry->is_null();
}

const Json& JsonReader::required(const std::string& key) const {
  const Json* value = find(key);
  if (!value) fail(key, is_null(key) ? "is null; it needs a value" : "is missing");
  return *value;
}

int64_t JsonReader::integer(const std::string& key, int64_t low, int64_t high) const {
  const Json& value = required(key);
  int64_t result = 0;
  if (value.is_number_unsigned()) {
    const uint64_t stored = value.get<uint64_t>();
    if (stored > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      fail(key, fmt::format("is {}, which is too large", stored));
    result = static_cast<int64_t>(stored);
  } else if (value.is_number_integer()) {
    result = value.get<int64_t>();
  } else if (value.is_number_float() && std::abs(value.get<double>()) <= kExactIntegers &&
             std::floor(value.get<double>()) == value.get<double>()) {
    result = static_cast<int64_t>(value.get<double>());
  } else {
    fail(key, fmt::format("must be a whole number, not {}", shown(value)));
  }
  if (result < low || result > high)
    fail(key, fmt::format("is {}; it must lie in {} .. {}", result, low, high));
  return result;
}

int64_t JsonReader::integer_or(const std::string& key, int64_t fallback, int64_t low, int64_t high) const {
  return has(key) ? integer(key, low, high) : fallback;
}

double JsonReader::number(const std::string& key, double low, double high) const {
  const Json& value = required(key);
  if (!value.is_number()) fail(key, fmt::format("must be a number, not {}", shown(value)));
  const double result = value.get<double>();
  if (!(result >= low && result <= high))
    fail(key, fmt::format("is {}; it must lie in {} .. {}", result, low, high));
  return result;
}

double JsonReader::number_or(const std::string& key, double fallback, double low, double high) const {
  return has(key) ? number(key, low, high) : fallback;
}

bool JsonReader::boolean_or(const std::string& key, bool fallback) const {
  const Json* value = find(key);
  if (!value) return fallback;
  if (!value->is_boolean()) fail(key, fmt::format("must be true or false, not {}", shown(*value)));
  return value->get<bool>();
}

std::string JsonReader::text_or(const std::string& key, const std::string& fallback) const {
  const Json* value = find(key);
  if (!value) return fallback;
  if (!value->is_string()) fail(key, fmt::format("must be text, not {}", shown(*value)));
  return value->get<std::string>();
}

void JsonReader::fail(const std::string& key, const std::string& problem) const {
  throw ConfigError("{}: {} {}", where_, key, problem);
}

}  // namespace fathom::config

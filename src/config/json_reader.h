// Typed access to the keys of one JSON object. Every message names the source and the key.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"

namespace fathom::config {

class JsonReader {
 public:
  // `object` must outlive the reader; `where` names the source, with the key path inside it for nested
  // objects. Throws ConfigError if `object` is no JSON object.
  JsonReader(const Json& object, std::string where);

  // nullptr: the key is absent or null.
  const Json* find(const std::string& key) const;
  bool has(const std::string& key) const { return find(key) != nullptr; }
  bool is_null(const std::string& key) const;  // present, with the value null

  // A whole number in [low, high]; 4096.0 counts as one. Throws ConfigError: missing or null, wrong type, out
  // of range.
  int64_t integer(const std::string& key, int64_t low, int64_t high) const;
  int64_t integer_or(const std::string& key, int64_t fallback, int64_t low, int64_t high) const;
  // A finite number in [low, high].
  double number(const std::string& key, double low, double high) const;
  double number_or(const std::string& key, double fallback, double low, double high) const;
  bool boolean_or(const std::string& key, bool fallback) const;
  std::string text_or(const std::string& key, const std::string& fallback) const;
  // The value of the text among `choices`, {name, value} pairs. Throws ConfigError listing the names.
  template <typename T>
  T choice(const std::string& key, T fallback, const std::vector<std::pair<std::string, T>>& choices) const {
    if (!has(key)) return fallback;
    const std::string name = text_or(key, "");
    std::string names;
    for (const auto& [candidate, value] : choices) {
      if (candidate == name) return value;
      names += (names.empty() ? "" : ", ") + candidate;
    }
    fail(key, "is \"" + name + "\"; supported here: " + names);
  }
  [[noreturn]] void fail(const std::string& key, const std::string& problem) const;

 private:
  const Json& required(const std::string& key) const;
  const Json& object_;
  std::string where_;
};

}  // namespace fathom::config

#include "base/json.h"

#include <unordered_set>
#include <vector>

#include "base/error.h"
#include "base/file.h"

namespace fathom {

namespace {

// Builds the value as the library does, and refuses duplicate keys on the way. (The library's parser callback
// would scan an object again after each nested one: quadratic in the number of keys.)
template <typename JsonType>
class StrictBuilder {
 public:
  StrictBuilder(JsonType& root, const std::string& where) : builder_(root, true), where_(where) {}

  bool null() { return builder_.null(); }
  bool boolean(bool value) { return builder_.boolean(value); }
  bool number_integer(int64_t value) { return builder_.number_integer(value); }
  bool number_unsigned(uint64_t value) { return builder_.number_unsigned(value); }
  bool number_float(double value, const std::string& text) { return builder_.number_float(value, text); }
  bool string(std::string& value) { return builder_.string(value); }
  bool binary(typename JsonType::binary_t& value) { return builder_.binary(value); }
  bool start_object(size_t size) {
    open_objects_.emplace_back();
    return builder_.start_object(size);
  }
  bool key(std::string& value) {
    if (!open_objects_.back().insert(value).second)
      throw ConfigError("{}: key \"{}\" stands twice in one object: remove one of them", where_, value);
    return builder_.key(value);
  }
  bool end_object() {
    open_objects_.pop_back();
    return builder_.end_object();
  }
  bool start_array(size_t size) { return builder_.start_array(size); }
  bool end_array() { return builder_.end_array(); }
  template <typename Exception>
  bool parse_error(size_t position, const std::string& token, const Exception& error) {
    return builder_.parse_error(position, token, error);
  }

 private:
  nlohmann::detail::json_sax_dom_parser<JsonType> builder_;
  std::vector<std::unordered_set<std::string>> open_objects_;
  const std::string& where_;
};

template <typename JsonType>
JsonType parse_strict(std::string_view text, const std::string& where) {
  try {
    JsonType root;
    StrictBuilder<JsonType> builder(root, where);
    JsonType::sax_parse(text, &builder);  // the builder throws what it finds
    return root;
  } catch (const nlohmann::json::parse_error& e) {
    throw ConfigError("{}: not valid JSON at byte {}: {}", where, e.byte, e.what());
  } catch (const nlohmann::json::exception& e) {
    throw ConfigError("{}: not valid JSON: {}", where, e.what());
  }
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) { return parse_strict<Json>(text, where); }

SortedJson parse_sorted_json(std::string_view text, const std::string& where) {
  return parse_strict<SortedJson>(text, where);
}

Json read_json_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_json(file.text(), path.string());
}

}  // namespace fathom

// JSON files: nlohmann with named errors. Duplicate keys are refused (the library keeps the last silently).
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace fathom {

using Json = nlohmann::ordered_json;

// `where` names the source in messages. Throws ConfigError with byte offset: syntax error, duplicate key.
Json parse_json(std::string_view text, const std::string& where);
// The same for objects of very many keys: `Json` keeps the order of keys at the cost of quadratic time in
// their number.
using SortedJson = nlohmann::json;
SortedJson parse_sorted_json(std::string_view text, const std::string& where);

Json read_json_file(const std::filesystem::path& path);  // throws FileError, ConfigError

}  // namespace fathom

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
Json read_json_file(const std::filesystem::path& path);  // throws FileError, ConfigError

}  // namespace fathom

// The part of fathom inspect that reads GGUF files.
#pragma once

#include <filesystem>
#include <string>

namespace fathom::cli {

// What is printed: one JSON object and a line end, or text. Of metadata arrays over 64 elements only type and count are
// shown. Throws FileError, CheckpointError.
std::string gguf_report(const std::filesystem::path& path, bool as_json, bool with_tensors);

}  // namespace fathom::cli

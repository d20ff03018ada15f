// manifest.json of a checkpoint directory: the size and XXH3 checksum of every file, written last. A
// directory without one that verifies is no checkpoint to resume from.
//   {"format": "fathom-checkpoint", "version": 1, "step": 1000, "files": {"config.json": {"bytes": 1, "xxh3":
//   "hex"}}}
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace fathom::formats {

inline constexpr const char* kManifestName = "manifest.json";

struct ManifestFile {
  uint64_t bytes = 0;
  std::string xxh3;  // 16 hex digits: XXH3 with 64 bits, seed 0
};

struct CheckpointManifest {
  int64_t step = 0;
  std::map<std::string, ManifestFile> files;  // by path inside the directory, '/' between folders
};

// Reads the whole file in blocks. Throws FileError.
ManifestFile checksum_file(const std::filesystem::path& path);

void write_manifest(const std::filesystem::path& directory, const CheckpointManifest& manifest);
CheckpointManifest read_manifest(
    const std::filesystem::path& directory);  // throws FileError, CheckpointError

enum class Verify { sizes, checksums };  // checksums: sizes first, of all files
// What is wrong with the directory (the first fault found, naming the file), or nothing.
std::optional<std::string> find_fault(const std::filesystem::path& directory, Verify what);

}  // namespace fathom::formats

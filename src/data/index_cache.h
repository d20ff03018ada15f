// Sample indices on disk: arrays in one file whose name is the hash of everything that decides them. Found again
// they are mapped, not computed. A run never depends on it: an entry that is missing, damaged or of another
// version is computed anew, a directory that cannot be written is named once and left alone. Any number of
// processes and machines may share a directory: entries appear by rename, whole. Layout, little-endian, arrays
// and checksum at multiples of 64 bytes:
//   byte 0  8 bytes "FATHOMIX"    byte 8  u32 version 1    byte 12  u32 n, arrays    byte 16  u64 d
//   byte 24 u64[n] sizes of the arrays in bytes; the description, d bytes; the arrays; u64 xxHash64 of all before
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"

namespace fathom::data {

class IndexCache {
 public:
  IndexCache() = default;  // none: nothing is found, nothing is stored
  explicit IndexCache(std::filesystem::path directory, bool may_write = true)
      : directory_(std::move(directory)), may_write_(may_write) {}

  struct Entry {
    MappedFile file;
    std::vector<std::span<const std::byte>> arrays;  // 64-byte aligned, inside `file`
  };
  // `description` says all that decides the arrays; it is compared whole, the hash only names the file.
  std::optional<Entry> find(const std::string& description) const;
  // Makes the directory. Does not throw for what the file system refuses (a warning, once a process).
  void store(const std::string& description, std::span<const std::span<const std::byte>> arrays) const;
  std::filesystem::path path_of(const std::string& description) const;
  explicit operator bool() const { return !directory_.empty(); }

 private:
  std::filesystem::path directory_;
  bool may_write_ = false;
};

}  // namespace fathom::data

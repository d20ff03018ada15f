// One process at a time in a directory. The lock goes with its process, however that ends.
#pragma once

#include <filesystem>
#include <string>

namespace fathom {

class DirectoryLock {
 public:
  DirectoryLock() = default;  // holds nothing
  // Takes flock(2) on `<directory>/.lock`, which the destructor removes; the file says who holds it. Throws FileError:
  // the directory cannot be written; or another process holds it: "<directory>: process 12 on host <occupied>". A file
  // system without locks is a warning, and nothing is held.
  DirectoryLock(const std::filesystem::path& directory, const std::string& occupied);
  DirectoryLock(DirectoryLock&& other) noexcept;
  DirectoryLock& operator=(DirectoryLock&& other) noexcept;
  ~DirectoryLock();

  static constexpr const char* kFileName = ".lock";

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace fathom

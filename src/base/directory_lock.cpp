#include "base/directory_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/host_name.h"
#include "base/log.h"

namespace fathom {
namespace {

std::string read_holder(int descriptor) {
  std::array<char, 256> text{};
  const ssize_t count = ::pread(descriptor, text.data(), text.size(), 0);
  return count > 0 ? std::string(text.data(), static_cast<size_t>(count)) : "";
}

// For the message to others only: the lock does not depend on it.
void write_holder(int descriptor) {
  const std::string text = fmt::format("process {} on {}", ::getpid(), host_name());
  if (::ftruncate(descriptor, 0) != 0 || ::pwrite(descriptor, text.data(), text.size(), 0) < 0)
    log::warning("cannot write who holds a lock: {}", std::strerror(errno));
}

// The last holder removes the file: a lock on what has no name any more keeps nobody out.
bool is_still_there(int descriptor, const std::filesystem::path& path) {
  struct stat ours, named;
  return ::fstat(descriptor, &ours) == 0 && ::stat(path.c_str(), &named) == 0 &&
         ours.st_ino == named.st_ino && ours.st_dev == named.st_dev;
}

}  // namespace

DirectoryLock::DirectoryLock(const std::filesystem::path& directory, const std::string& occupied)
    : path_(directory / kFileName) {
  while (true) {
    const int descriptor = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor < 0) throw FileError("cannot write into {}: {}", directory.string(), std::strerror(errno));
    int result;
    do {
      result = ::flock(descriptor, LOCK_EX | LOCK_NB);
    } while (result != 0 && errno == EINTR);
    if (result != 0) {
      const int cause = errno;
      const std::string holder = read_holder(descriptor);
      ::close(descriptor);
      if (cause == EWOULDBLOCK)
        throw FileError("{}: {} {}", directory.string(), holder.empty() ? "another process" : holder,
                        occupied);
      log::warning("{}: this file system has no locks ({}): see to it that no second process writes here",
                   directory.string(), std::strerror(cause));
      return;
    }
    if (is_still_there(descriptor, path_)) {
      descriptor_ = descriptor;
      write_holder(descriptor);
      return;
    }
    ::close(descriptor);
  }
}

DirectoryLock::DirectoryLock(DirectoryLock&& other) noexcept { *this = std::move(other); }

DirectoryLock& DirectoryLock::operator=(DirectoryLock&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

DirectoryLock::~DirectoryLock() {
  if (descriptor_ < 0) return;
  if (is_still_there(descriptor_, path_)) ::unlink(path_.c_str());
  ::close(descriptor_);
}

}  // namespace fathom

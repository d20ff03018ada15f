#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace fathom {
namespace {

constexpr size_t kBufferBytes = 1 << 20;

void write_all(int fd, const char* data, size_t bytes, const fs::path& path) {
  while (bytes > 0) {
    const ssize_t n = ::write(fd, data, bytes);
    if (n < 0) {
      if (errno == EINTR) continue;
      throw FileError("cannot write {}: {}", path.string(), std::strerror(errno));
    }
    data += n;
    bytes -= static_cast<size_t>(n);
  }
}

}  // namespace

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw FileError("cannot open {}: {}", path.string(), std::strerror(errno));
  struct stat info;
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    throw FileError("cannot read {}: it is not a regular file", path.string());
  }
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) {
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (address == MAP_FAILED) {
      const int cause = errno;
      ::close(fd);
      throw FileError("cannot map {} ({} bytes): {}", path.string(), size_, std::strerror(cause));
    }
    data_ = static_cast<const std::byte*>(address);
  }
  ::close(fd);
}

MappedFile::MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

std::string read_text_file(const fs::path& path) {
  const MappedFile file(path);
  return std::string(file.text());
}

AtomicFile::AtomicFile(const fs::path& path)
    : path_(path), temporary_(path.string() + ".tmp-" + std::to_string(::getpid())) {
  fd_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) throw FileError("cannot write {}: {}", path_.string(), std::strerror(errno));
  buffer_.reserve(kBufferBytes);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) {
    ::close(fd_);
    ::unlink(temporary_.c_str());
  }
}

void AtomicFile::flush() {
  if (buffer_.empty())
    return;  // so that write_at may run on several threads once nothing is appended any more
  write_all(fd_, buffer_.data(), buffer_.size(), path_);
  buffer_.clear();
}

void AtomicFile::write(const void* data, size_t bytes) {
  offset_ += bytes;
  if (buffer_.size() + bytes > kBufferBytes) flush();
  if (bytes >= kBufferBytes) {
    write_all(fd_, static_cast<const char*>(data), bytes, path_);
  } else {
    buffer_.append(static_cast<const char*>(data), bytes);
  }
}

void AtomicFile::write_at(uint64_t offset, const void* data, size_t bytes) {
  flush();
  const char* source = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd_, source, bytes, static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      throw FileError("cannot write {} at byte {}: {}", path_.string(), offset, std::strerror(errno));
    }
    source += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<size_t>(n);
  }
}

void AtomicFile::append_from(const fs::path& source, uint64_t begin, uint64_t bytes) {
  flush();
  const int from = ::open(source.c_str(), O_RDONLY | O_CLOEXEC);
  if (from < 0) throw FileError("cannot open {}: {}", source.string(), std::strerror(errno));
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } closer{from};
  offset_ += bytes;
  bool in_kernel = true;
  while (bytes > 0) {
    ssize_t n;
    if (in_kernel) {
      off_t at = static_cast<off_t>(begin);
      n = ::copy_file_range(from, &at, fd_, nullptr, bytes, 0);
      // Whatever it is that it cannot do here, the plain way says it better.
      if (n <= 0 && errno != EINTR) {
        in_kernel = false;
        continue;
      }
    } else {
      std::string block(std::min<uint64_t>(bytes, kBufferBytes), '\0');
      n = ::pread(from, block.data(), block.size(), static_cast<off_t>(begin));
      if (n == 0) throw FileError("cannot read {}: it ends at byte {}", source.string(), begin);
      if (n > 0) write_all(fd_, block.data(), static_cast<size_t>(n), path_);
    }
    if (n < 0) {
      if (errno == EINTR) continue;
      throw FileError("cannot read {} at byte {}: {}", source.string(), begin, std::strerror(errno));
    }
    begin += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
}

void AtomicFile::commit() {
  flush();
  if (::fsync(fd_) != 0) throw FileError("cannot sync {}: {}", path_.string(), std::strerror(errno));
  commit_unsynced();
}

void AtomicFile::commit_unsynced() {
  flush();
  const int closed = ::close(fd_);
  fd_ = -1;
  if (closed != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int cause = errno;
    ::unlink(temporary_.c_str());
    throw FileError("cannot put {} in place: {}", path_.string(), std::strerror(cause));
  }
}

void write_text_file(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error || !fs::is_directory(path))
    throw FileError("cannot make the directory {}: {}", path.string(),
                    error ? error.message() : "a file with this name is in the way");
}

void sync_directory(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw FileError("cannot open the directory {}: {}", path.string(), std::strerror(errno));
  const int synced = ::fsync(fd);
  const int cause = errno;
  ::close(fd);
  // Some file systems do not sync directories; the rename itself is still atomic there.
  if (synced != 0 && cause != EINVAL)
    throw FileError("cannot sync {}: {}", path.string(), std::strerror(cause));
}

uint64_t free_disk_bytes(const fs::path& path) {
  fs::path existing = fs::absolute(path);
  while (!fs::exists(existing) && existing.has_parent_path() && existing != existing.parent_path())
    existing = existing.parent_path();
  struct statvfs info;
  if (::statvfs(existing.c_str(), &info) != 0)
    throw FileError("cannot ask the free space of {}: {}", existing.string(), std::strerror(errno));
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

}  // namespace fathom

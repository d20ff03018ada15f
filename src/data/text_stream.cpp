#include "data/text_stream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace fathom::data {
namespace {

constexpr size_t kBufferBytes = 1 << 18;

class PlainStream : public ByteStream {
 public:
  explicit PlainStream(const std::filesystem::path& path) : path_(path) {
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) throw FileError("cannot open {}: {}", path.string(), std::strerror(errno));
    struct stat info;
    if (::fstat(fd_, &info) == 0 && S_ISDIR(info.st_mode)) {
      ::close(fd_);
      throw FileError("cannot read {}: it is a directory; name its files", path.string());
    }
  }
  PlainStream(const PlainStream&) = delete;
  PlainStream& operator=(const PlainStream&) = delete;
  ~PlainStream() override { ::close(fd_); }

  size_t read(char* out, size_t size) override {
    while (true) {
      const ssize_t n = ::read(fd_, out, size);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0)
        throw FileError("cannot read {} at byte {}: {}", path_.string(), bytes_, std::strerror(errno));
      bytes_ += static_cast<uint64_t>(n);
      return static_cast<size_t>(n);
    }
  }
  bool skip(uint64_t bytes) override {
    struct stat info;
    if (::fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) return ByteStream::skip(bytes);
    if (static_cast<uint64_t>(info.st_size) < bytes_ + bytes) return false;
    bytes_ += bytes;
    if (::lseek(fd_, static_cast<off_t>(bytes_), SEEK_SET) < 0)
      throw FileError("cannot go to byte {} of {}: {}", bytes_, path_.string(), std::strerror(errno));
    return true;
  }
  uint64_t file_bytes_read() const override { return bytes_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  uint64_t bytes_ = 0;
};

class GzipStream : public ByteStream {
 public:
  explicit GzipStream(const std::filesystem::path& path) : path_(path), file_(path), input_(kBufferBytes) {
    if (inflateInit2(&state_, 16 + MAX_WBITS) != Z_OK)
      throw FileError("cannot read {}: zlib does not start", path.string());
  }
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;
  ~GzipStream() override { inflateEnd(&state_); }

  size_t read(char* out, size_t size) override {
    state_.next_out = reinterpret_cast<Bytef*>(out);
    state_.avail_out = static_cast<uInt>(size);
    while (state_.avail_out == size) {
      if (state_.avail_in == 0) {
        state_.avail_in = static_cast<uInt>(file_.read(input_.data(), input_.size()));
        state_.next_in = reinterpret_cast<Bytef*>(input_.data());
        if (state_.avail_in == 0) {
          if (inside_member_) refuse("the compressed data end early: the file is truncated");
          return 0;
        }
      }
      if (!inside_member_) {
        inflateReset(&state_);
        inside_member_ = true;
      }
      const int result = inflate(&state_, Z_NO_FLUSH);
      if (result == Z_STREAM_END) {
        inside_member_ = false;
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        if (state_.avail_out < size) break;  // zlib says it again when the next bytes are asked for
        refuse(state_.msg ? state_.msg : "the compressed data are damaged");
      }
    }
    return size - state_.avail_out;
  }
  uint64_t file_bytes_read() const override { return file_.file_bytes_read(); }

 private:
  [[noreturn]] void refuse(const char* what) const {
    throw DataError("{}: not readable as gzip near byte {}: {}; fetch it again", path_.string(),
                    file_.file_bytes_read() - state_.avail_in, what);
  }
  std::filesystem::path path_;
  PlainStream file_;
  std::vector<char> input_;
  z_stream state_{};
  bool inside_member_ = false;
};

class ZstdStream : public ByteStream {
 public:
  explicit ZstdStream(const std::filesystem::path& path)
      : path_(path), file_(path), input_(kBufferBytes), state_(ZSTD_createDStream(), ZSTD_freeDStream) {
    if (!state_) throw FileError("cannot read {}: zstd does not start", path.string());
  }

  size_t read(char* out, size_t size) override {
    ZSTD_outBuffer output{out, size, 0};
    while (output.pos == 0) {
      if (pending_.pos == pending_.size && !more_output_) {
        pending_ = {input_.data(), file_.read(input_.data(), input_.size()), 0};
        if (pending_.size == 0) {
          if (inside_frame_) refuse("the compressed data end early: the file is truncated");
          return 0;
        }
      }
      if (failure_) refuse(failure_);
      const size_t result = ZSTD_decompressStream(state_.get(), &output, &pending_);
      if (ZSTD_isError(result)) {
        failure_ = ZSTD_getErrorName(result);
        continue;  // what was given before it comes first
      }
      inside_frame_ = result != 0;
      more_output_ = inside_frame_ && output.pos == output.size;
    }
    return output.pos;
  }
  uint64_t file_bytes_read() const override { return file_.file_bytes_read(); }

 private:
  [[noreturn]] void refuse(const char* what) const {
    throw DataError("{}: not readable as zstd near byte {}: {}; fetch it again", path_.string(),
                    file_.file_bytes_read() - (pending_.size - pending_.pos), what);
  }
  std::filesystem::path path_;
  PlainStream file_;
  std::vector<char> input_;
  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> state_;
  ZSTD_inBuffer pending_{nullptr, 0, 0};
  bool inside_frame_ = false, more_output_ = false;
  const char* failure_ = nullptr;
};

}  // namespace

bool ByteStream::skip(uint64_t bytes) {
  std::vector<char> buffer(kBufferBytes);
  while (bytes > 0) {
    const size_t n = read(buffer.data(), std::min<uint64_t>(buffer.size(), bytes));
    if (n == 0) return false;
    bytes -= n;
  }
  return true;
}

std::unique_ptr<ByteStream> open_byte_stream(const std::filesystem::path& path) {
  if (path.extension() == ".gz") return std::make_unique<GzipStream>(path);
  if (path.extension() == ".zst") return std::make_unique<ZstdStream>(path);
  return std::make_unique<PlainStream>(path);
}

std::filesystem::path without_compression(const std::filesystem::path& path) {
  const bool is_compressed = path.extension() == ".gz" || path.extension() == ".zst";
  return is_compressed ? std::filesystem::path(path).replace_extension() : path;
}

LineReader::LineReader(const std::filesystem::path& path, uint64_t byte, int64_t line)
    : stream_(open_byte_stream(path)), offset_(byte), line_number_(line - 1) {
  if (byte > 0 && !stream_->skip(byte))
    throw DataError("{}: its text ends before byte {}, where the build was: the file has changed",
                    path.string(), byte);
}

bool LineReader::fill() {
  buffer_.resize(kBufferBytes);
  size_t size = 0;
  const bool is_start = offset_ == 0;
  try {
    // A byte-order mark is to lie in the first buffer whole.
    do {
      const size_t n = stream_->read(buffer_.data() + size, buffer_.size() - size);
      size += n;
      if (n == 0) break;
    } while (is_start && size < 3);
  } catch (...) {
    buffer_.clear();
    at_ = 0;
    throw;
  }
  buffer_.resize(size);
  at_ = 0;
  if (is_start && buffer_.starts_with("\xef\xbb\xbf")) offset_ = at_ = 3;
  return at_ < buffer_.size();
}

LineReader::Part LineReader::append(std::string& out, size_t max_bytes) {
  size_t taken = 0;
  while (true) {
    if (at_ == buffer_.size() && !fill()) {
      if (taken == 0) return Part::none;
      inside_line_ = false;
      return Part::line;
    }
    if (taken == 0 && !inside_line_) ++line_number_;
    const size_t room = std::min(buffer_.size() - at_, max_bytes - taken);
    const auto* found = static_cast<const char*>(std::memchr(buffer_.data() + at_, '\n', room));
    const size_t count = found ? static_cast<size_t>(found - buffer_.data()) + 1 - at_ : room;
    out.append(buffer_, at_, count);
    at_ += count;
    offset_ += count;
    taken += count;
    inside_line_ = !found;
    if (found) return Part::line;
    if (taken == max_bytes) return Part::piece;
  }
}

}  // namespace fathom::data

#include "data/build_output.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/file.h"

namespace fathom::data {

namespace fs = std::filesystem;

// A file that grows at its end, through a buffer.
class AppendedFile {
 public:
  // Keeps the first `size` bytes. Throws DataError if the file has fewer.
  AppendedFile(fs::path path, uint64_t size) : path_(std::move(path)), size_(size) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) throw FileError("cannot write {}: {}", path_.string(), std::strerror(errno));
    struct stat info;
    if (::fstat(fd_, &info) != 0 || static_cast<uint64_t>(info.st_size) < size) {
      ::close(fd_);
      throw DataError("{}: it is shorter than the build left it", path_.string());
    }
    truncate(size);
  }
  AppendedFile(const AppendedFile&) = delete;
  AppendedFile& operator=(const AppendedFile&) = delete;
  ~AppendedFile() { ::close(fd_); }

  uint64_t size() const { return size_; }

  void append(const void* data, size_t bytes) {
    size_ += bytes;
    const char* source = static_cast<const char*>(data);
    if (buffer_.size() + bytes > kBufferBytes) flush();
    if (bytes >= kBufferBytes) return write_all(source, bytes);
    buffer_.append(source, bytes);
  }
  void truncate(uint64_t size) {
    flush();
    if (::ftruncate(fd_, static_cast<off_t>(size)) != 0 || ::lseek(fd_, 0, SEEK_END) < 0)
      throw FileError("cannot shorten {}: {}", path_.string(), std::strerror(errno));
    size_ = size;
  }
  void flush() {
    const std::string out = std::exchange(buffer_, {});
    write_all(out.data(), out.size());
  }
  void sync() {
    flush();
    if (::fdatasync(fd_) != 0) throw FileError("cannot sync {}: {}", path_.string(), std::strerror(errno));
  }
  // After flush().
  void read(uint64_t offset, void* out, size_t bytes) const {
    char* p = static_cast<char*>(out);
    while (bytes > 0) {
      const ssize_t n = ::pread(fd_, p, bytes, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0)
        throw FileError("cannot read {} at byte {}: {}", path_.string(), offset,
                        n == 0 ? "it ends early" : std::strerror(errno));
      p += n;
      offset += static_cast<uint64_t>(n);
      bytes -= static_cast<size_t>(n);
    }
  }
  const fs::path& path() const { return path_; }

 private:
  static constexpr size_t kBufferBytes = 1 << 18;
  void write_all(const char* data, size_t bytes) {
    while (bytes > 0) {
      const ssize_t n = ::write(fd_, data, bytes);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw FileError("cannot write {}: {}", path_.string(), std::strerror(errno));
      data += n;
      bytes -= static_cast<size_t>(n);
    }
  }
  fs::path path_;
  uint64_t size_;
  int fd_ = -1;
  std::string buffer_;
};

namespace {

constexpr int64_t kBlock = 1 << 16;  // values read at a time
constexpr auto kLength = static_cast<int64_t>(sizeof(int32_t)),
               kDocument = static_cast<int64_t>(sizeof(int64_t));

// Calls fn(span) for values [begin, end) of a file of T.
template <typename T, typename Function>
void each_block(const AppendedFile& file, int64_t begin, int64_t end, Function&& fn) {
  std::vector<T> block;
  for (int64_t at = begin; at < end;) {
    block.resize(static_cast<size_t>(std::min(kBlock, end - at)));
    file.read(static_cast<uint64_t>(at) * sizeof(T), block.data(), block.size() * sizeof(T));
    fn(std::span<T>(block));
    at += static_cast<int64_t>(block.size());
  }
}

void rename_file(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) throw FileError("cannot put {} in place: {}", to.string(), error.message());
}

fs::path with_extension(const fs::path& prefix, const char* extension) { return prefix.string() + extension; }

}  // namespace

BuildOutput::BuildOutput(fs::path directory, formats::TokenType type, int64_t piece_tokens, const Json& state)
    : directory_(std::move(directory)), type_(type), piece_tokens_(piece_tokens) {
  int64_t sequences = 0, documents = 0;
  if (!state.empty()) {
    num_tokens_ = state.at("tokens");
    sequences = state.at("sequences");
    documents = state.at("documents");
    last_length_ = state.at("last_length");
    open_length_ = state.at("open_length");
    is_open_ = state.at("is_open");
    carry_ = state.at("carry").get<std::vector<int32_t>>();
    if (state.contains("mark")) {
      const Json& mark = state.at("mark");
      mark_ = Mark{mark.at("tokens"), mark.at("sequences"), mark.at("documents"),
                   mark.at("carry").get<std::vector<int32_t>>()};
    }
  }
  const int64_t token_bytes = formats::token_type_bytes(type);
  // Once the token file has become the .bin it is not there any more; only publish() follows then.
  const fs::path token_path = directory_ / "tokens";
  if (state.empty() || !state.value("is_whole", false) || fs::exists(token_path))
    tokens_ = std::make_unique<AppendedFile>(token_path, static_cast<uint64_t>(num_tokens_ * token_bytes));
  lengths_ =
      std::make_unique<AppendedFile>(directory_ / "lengths", static_cast<uint64_t>(sequences * kLength));
  documents_ =
      std::make_unique<AppendedFile>(directory_ / "documents", static_cast<uint64_t>(documents * kDocument));
}

BuildOutput::~BuildOutput() = default;

int64_t BuildOutput::num_documents() const { return static_cast<int64_t>(documents_->size()) / kDocument; }
int64_t BuildOutput::num_sequences() const { return static_cast<int64_t>(lengths_->size()) / kLength; }
int64_t BuildOutput::num_tokens() const { return num_tokens_; }
int64_t BuildOutput::num_dropped_tokens() const { return static_cast<int64_t>(carry_.size()); }

void BuildOutput::begin_document(bool may_be_taken_back) {
  is_open_ = true;
  if (may_be_taken_back) mark_ = Mark{num_tokens_, num_sequences(), num_documents(), carry_};
}

void BuildOutput::write_tokens(std::span<const int32_t> tokens) {
  num_tokens_ += static_cast<int64_t>(tokens.size());
  if (type_ == formats::TokenType::int32) {
    tokens_->append(tokens.data(), tokens.size_bytes());
  } else {
    FATHOM_ASSERT(type_ == formats::TokenType::uint16);
    narrow_.assign(tokens.begin(), tokens.end());
    tokens_->append(narrow_.data(), narrow_.size() * sizeof(uint16_t));
  }
}

void BuildOutput::push_length(int64_t length) {
  const auto value = static_cast<int32_t>(length);
  lengths_->append(&value, sizeof value);
}

void BuildOutput::add(std::span<const int32_t> tokens) {
  if (piece_tokens_ == 0) {
    open_length_ += static_cast<int64_t>(tokens.size());
    if (open_length_ >= std::numeric_limits<int32_t>::max())
      throw DataError(
          "document {} has a sequence of more than 2147483646 tokens, the most that the format holds: cut "
          "the "
          "document, or cut sequences with --sequences line or --seq-length",
          num_documents());
    write_tokens(tokens);
    return;
  }
  carry_.insert(carry_.end(), tokens.begin(), tokens.end());
  const auto piece = static_cast<size_t>(piece_tokens_);
  size_t at = 0;
  for (; carry_.size() - at >= piece; at += piece) {
    write_tokens(std::span(carry_).subspan(at, piece));
    push_length(piece_tokens_);
    const int64_t end = num_sequences();
    documents_->append(&end, sizeof end);
  }
  carry_.erase(carry_.begin(), carry_.begin() + static_cast<std::ptrdiff_t>(at));
}

void BuildOutput::end_sequence() {
  if (piece_tokens_ > 0) {
    last_length_ = 0;
    return;
  }
  if (last_length_ >= 0) push_length(last_length_);
  last_length_ = std::exchange(open_length_, 0);
}

void BuildOutput::end_document(int32_t eod) {
  if (last_length_ >= 0) {
    if (eod >= 0) {
      const std::span end(&eod, 1);
      if (piece_tokens_ > 0) {
        add(end);
      } else {
        write_tokens(end);
        ++last_length_;
      }
    }
    if (piece_tokens_ == 0) {
      push_length(last_length_);
      const int64_t end = num_sequences();
      documents_->append(&end, sizeof end);
    }
  }
  last_length_ = -1;
  open_length_ = 0;
  is_open_ = false;
  mark_.reset();
}

void BuildOutput::take_back_document() {
  FATHOM_ASSERT(mark_);
  num_tokens_ = mark_->tokens;
  tokens_->truncate(static_cast<uint64_t>(num_tokens_ * formats::token_type_bytes(type_)));
  lengths_->truncate(static_cast<uint64_t>(mark_->sequences * kLength));
  documents_->truncate(static_cast<uint64_t>(mark_->documents * kDocument));
  carry_ = std::move(mark_->carry);
  last_length_ = -1;
  open_length_ = 0;
  is_open_ = false;
  mark_.reset();
}

Json BuildOutput::save() {
  if (tokens_) tokens_->sync();
  lengths_->sync();
  documents_->sync();
  Json state = {{"tokens", num_tokens_},
                {"sequences", num_sequences()},
                {"documents", num_documents()},
                {"last_length", last_length_},
                {"open_length", open_length_},
                {"is_open", is_open_},
                {"carry", carry_}};
  if (mark_)
    state["mark"] = {{"tokens", mark_->tokens},
                     {"sequences", mark_->sequences},
                     {"documents", mark_->documents},
                     {"carry", mark_->carry}};
  return state;
}

int64_t BuildOutput::sequence_begin(int64_t document) const {
  if (document == 0) return 0;
  int64_t end = 0;
  documents_->read(static_cast<uint64_t>((document - 1) * kDocument), &end, sizeof end);
  return end;
}

int64_t BuildOutput::tokens_before(int64_t sequence) const {
  if (sequence == num_sequences()) return num_tokens_;
  int64_t tokens = 0;
  each_block<int32_t>(*lengths_, 0, sequence, [&](std::span<int32_t> block) {
    for (const int32_t length : block) tokens += length;
  });
  return tokens;
}

BuildOutput::Written BuildOutput::count(int64_t begin, int64_t end) const {
  const int64_t first = sequence_begin(begin), last = sequence_begin(end);
  return {end - begin, last - first, tokens_before(last) - tokens_before(first)};
}

void BuildOutput::put_bin(const fs::path& prefix, int64_t begin, int64_t end, bool all) {
  const fs::path bin = with_extension(prefix, ".bin");
  std::error_code ignored;
  // A new .bin never stands beside an old .idx.
  fs::remove(with_extension(prefix, ".idx"), ignored);
  const auto bytes = static_cast<uint64_t>(formats::token_type_bytes(type_));
  if (all) {
    if (tokens_) {
      rename_file(tokens_->path(), bin);
      tokens_.reset();
    } else if (!fs::exists(bin) || fs::file_size(bin) != static_cast<uint64_t>(num_tokens_) * bytes) {
      throw DataError("{}: it has changed since the build put it there; remove {} and build again",
                      bin.string(), directory_.string());
    }
    return;
  }
  const int64_t first = tokens_before(sequence_begin(begin)), last = tokens_before(sequence_begin(end));
  AtomicFile file(directory_ / "part");
  std::vector<char> block(1 << 20);
  for (uint64_t at = static_cast<uint64_t>(first) * bytes, stop = static_cast<uint64_t>(last) * bytes;
       at < stop;) {
    const size_t take = std::min<uint64_t>(block.size(), stop - at);
    tokens_->read(at, block.data(), take);
    file.write(block.data(), take);
    at += take;
  }
  file.commit();
  rename_file(directory_ / "part", bin);
}

void BuildOutput::put_index(const fs::path& prefix, int64_t begin, int64_t end) const {
  const int64_t first = sequence_begin(begin), last = sequence_begin(end);
  const fs::path temporary = directory_ / "index";
  AtomicFile idx(temporary);
  formats::write_index_header(idx, type_, last - first, end - begin);
  each_block<int32_t>(*lengths_, first, last,
                      [&](std::span<int32_t> block) { idx.write(block.data(), block.size_bytes()); });
  int64_t pointer = 0;
  std::vector<int64_t> pointers;
  each_block<int32_t>(*lengths_, first, last, [&](std::span<int32_t> block) {
    pointers.clear();
    for (const int32_t length : block) {
      pointers.push_back(pointer);
      pointer += length * formats::token_type_bytes(type_);
    }
    idx.write(pointers.data(), pointers.size() * sizeof(int64_t));
  });
  const int64_t zero = 0;
  idx.write(&zero, sizeof zero);
  each_block<int64_t>(*documents_, begin, end, [&](std::span<int64_t> block) {
    for (int64_t& value : block) value -= first;
    idx.write(block.data(), block.size_bytes());
  });
  idx.commit();
  rename_file(temporary, with_extension(prefix, ".idx"));
  sync_directory(prefix.has_parent_path() ? prefix.parent_path() : ".");
}

}  // namespace fathom::data

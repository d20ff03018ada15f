#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <vector>

#include "base/error.h"
#include "formats/indexed_dataset.h"

namespace fathom::formats {
namespace {

// Values appended in order and read once at the end; beyond a small buffer they lie in a file without a name.
template <typename T>
class Spill {
 public:
  explicit Spill(std::filesystem::path directory) : directory_(std::move(directory)) {
    if (directory_.empty()) directory_ = ".";
  }
  Spill(const Spill&) = delete;
  Spill& operator=(const Spill&) = delete;
  ~Spill() {
    if (fd_ >= 0) ::close(fd_);
  }

  void push(T value) {
    if (buffer_.size() == kBufferValues) flush();
    buffer_.push_back(value);
    ++count_;
  }
  int64_t count() const { return count_; }

  // Calls fn(span) over all values in order.
  template <typename Function>
  void each_block(Function&& fn) {
    std::vector<T> block(std::min<size_t>(kBufferValues, static_cast<size_t>(spilled_)));
    for (int64_t done = 0; done < spilled_;) {
      const size_t take = std::min<size_t>(block.size(), static_cast<size_t>(spilled_ - done));
      transfer([&](char* p, size_t n, off_t at) { return ::pread(fd_, p, n, at); }, block.data(), take, done,
               "read");
      fn(std::span<const T>(block.data(), take));
      done += static_cast<int64_t>(take);
    }
    fn(std::span<const T>(buffer_));
  }

 private:
  static constexpr size_t kBufferValues = 1 << 18;

  void flush() {
    if (fd_ < 0) {
      std::string pattern = (directory_ / ".fathom-spill-XXXXXX").string();
      fd_ = ::mkostemp(pattern.data(), O_CLOEXEC);
      if (fd_ < 0) throw FileError("cannot write in {}: {}", directory_.string(), std::strerror(errno));
      ::unlink(pattern.c_str());
    }
    transfer([&](char* p, size_t n, off_t at) { return ::pwrite(fd_, p, n, at); }, buffer_.data(),
             buffer_.size(), spilled_, "write");
    spilled_ += static_cast<int64_t>(buffer_.size());
    buffer_.clear();
  }

  template <typename Call>
  void transfer(Call&& call, T* values, size_t count, int64_t first, const char* what) {
    char* p = reinterpret_cast<char*>(values);
    size_t left = count * sizeof(T);
    off_t at = static_cast<off_t>(first) * static_cast<off_t>(sizeof(T));
    while (left > 0) {
      const ssize_t n = call(p, left, at);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0)
        throw FileError("cannot {} a temporary file in {}: {}", what, directory_.string(),
                        n == 0 ? "it ends early" : std::strerror(errno));
      p += n;
      left -= static_cast<size_t>(n);
      at += n;
    }
  }

  std::filesystem::path directory_;
  std::vector<T> buffer_;
  int fd_ = -1;
  int64_t spilled_ = 0, count_ = 0;
};

std::pair<int64_t, int64_t> range_of(TokenType type) {
  switch (type) {
    case TokenType::uint8:
      return {0, 255};
    case TokenType::int8:
      return {-128, 127};
    case TokenType::int16:
      return {-32768, 32767};
    case TokenType::uint16:
      return {0, 65535};
    case TokenType::float32:  // whole numbers that it holds exactly
      return {-(1 << 24), 1 << 24};
    default:
      return {std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()};
  }
}

template <typename T>
void narrow(std::span<const int32_t> tokens, std::vector<std::byte>& out) {
  out.resize(tokens.size() * sizeof(T));
  for (size_t i = 0; i < tokens.size(); ++i) {
    const T value = static_cast<T>(tokens[i]);
    std::memcpy(out.data() + i * sizeof(T), &value, sizeof(T));
  }
}

}  // namespace

struct IndexedDatasetWriter::State {
  State(const std::filesystem::path& prefix_path, TokenType token_type)
      : prefix(prefix_path),
        type(token_type),
        bin(prefix.string() + ".bin"),
        lengths(prefix.parent_path()),
        documents(prefix.parent_path()) {
    documents.push(0);
  }
  std::filesystem::path prefix;
  TokenType type;
  AtomicFile bin;
  Spill<int32_t> lengths;
  Spill<int64_t> documents;
  std::vector<std::byte> narrowed;
  int64_t num_tokens = 0;
};

IndexedDatasetWriter::IndexedDatasetWriter(const std::filesystem::path& prefix, TokenType type)
    : state_(std::make_unique<State>(prefix, type)) {}

IndexedDatasetWriter::~IndexedDatasetWriter() = default;

void IndexedDatasetWriter::add_sequence(std::span<const int32_t> tokens) {
  State& s = *state_;
  if (tokens.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
    throw DataError("{}.idx: sequence {} has {} tokens; the format holds at most 2147483647",
                    s.prefix.string(), s.lengths.count(), tokens.size());
  const auto [lowest, highest] = range_of(s.type);
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < lowest || tokens[i] > highest)
      throw DataError("{}.bin: sequence {}, token {}: id {} does not fit into {}", s.prefix.string(),
                      s.lengths.count(), i, tokens[i], token_type_name(s.type));
  switch (s.type) {
    case TokenType::uint8:
    case TokenType::int8:
      narrow<uint8_t>(tokens, s.narrowed);
      break;
    case TokenType::uint16:
    case TokenType::int16:
      narrow<uint16_t>(tokens, s.narrowed);
      break;
    case TokenType::int32:
      narrow<int32_t>(tokens, s.narrowed);
      break;
    case TokenType::int64:
      narrow<int64_t>(tokens, s.narrowed);
      break;
    case TokenType::float32:
      narrow<float>(tokens, s.narrowed);
      break;
    case TokenType::float64:
      narrow<double>(tokens, s.narrowed);
      break;
  }
  s.bin.write(s.narrowed.data(), s.narrowed.size());
  s.lengths.push(static_cast<int32_t>(tokens.size()));
  s.num_tokens += static_cast<int64_t>(tokens.size());
}

void IndexedDatasetWriter::end_document() { state_->documents.push(state_->lengths.count()); }

void IndexedDatasetWriter::append(const IndexedDataset& other) {
  for (int64_t d = 0; d < other.num_documents(); ++d) append_document(other, d);
}

void IndexedDatasetWriter::append_document(const IndexedDataset& other, int64_t document) {
  State& s = *state_;
  if (other.type() != s.type || other.has_modes())
    throw DataError("{}: it holds {} values{}, the output {}: they cannot be joined", other.bin_path(),
                    token_type_name(other.type()), other.has_modes() ? " with modes" : "",
                    token_type_name(s.type));
  for (int64_t i = other.document_begin(document); i < other.document_begin(document + 1); ++i) {
    const auto bytes = other.sequence_bytes(i);
    s.bin.write(bytes.data(), bytes.size());
    s.lengths.push(other.sequence_length(i));
    s.num_tokens += other.sequence_length(i);
  }
  end_document();
}

int64_t IndexedDatasetWriter::num_sequences() const { return state_->lengths.count(); }
int64_t IndexedDatasetWriter::num_documents() const { return state_->documents.count() - 1; }
int64_t IndexedDatasetWriter::num_tokens() const { return state_->num_tokens; }

void IndexedDatasetWriter::commit() {
  State& s = *state_;
  AtomicFile idx(s.prefix.string() + ".idx");
  write_index_header(idx, s.type, num_sequences(), num_documents());
  s.lengths.each_block([&](std::span<const int32_t> block) { idx.write(block.data(), block.size_bytes()); });
  int64_t pointer = 0;
  std::vector<int64_t> pointers;
  s.lengths.each_block([&](std::span<const int32_t> block) {
    pointers.clear();
    for (const int32_t length : block) {
      pointers.push_back(pointer);
      pointer += length * token_type_bytes(s.type);
    }
    idx.write(pointers.data(), pointers.size() * sizeof(int64_t));
  });
  s.documents.each_block(
      [&](std::span<const int64_t> block) { idx.write(block.data(), block.size_bytes()); });

  commit_pair(s.prefix, s.bin, idx);
}

void write_index_header(AtomicFile& idx, TokenType type, int64_t num_sequences, int64_t num_documents) {
  const auto put = [&](auto value) { idx.write(&value, sizeof value); };
  idx.write(std::string_view("MMIDIDX\0\0", 9));
  put(uint64_t{1});
  put(static_cast<uint8_t>(type));
  put(static_cast<uint64_t>(num_sequences));
  put(static_cast<uint64_t>(num_documents + 1));
}

void commit_pair(const std::filesystem::path& prefix, AtomicFile& bin, AtomicFile& idx,
                 const std::function<void()>& before_index) {
  std::error_code ignored;
  std::filesystem::remove(prefix.string() + ".idx", ignored);
  bin.commit();
  if (before_index) before_index();
  idx.commit();
}

}  // namespace fathom::formats

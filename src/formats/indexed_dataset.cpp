#include "formats/indexed_dataset.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace fathom::formats {
namespace {

constexpr char kMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
constexpr size_t kHeaderBytes = 34;

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename T>
T load(const std::byte* array, int64_t index) {
  return load<T>(array + static_cast<size_t>(index) * sizeof(T));
}

template <typename T>
void convert(const std::byte* from, int64_t count, int32_t* out) {
  // Signed bytes are numbers here. NOLINTNEXTLINE(bugprone-signed-char-misuse)
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<int32_t>(load<T>(from, i));
}

}  // namespace

int64_t token_type_bytes(TokenType type) {
  switch (type) {
    case TokenType::uint8:
    case TokenType::int8:
      return 1;
    case TokenType::int16:
    case TokenType::uint16:
      return 2;
    case TokenType::int32:
    case TokenType::float32:
      return 4;
    case TokenType::int64:
    case TokenType::float64:
      return 8;
  }
  return 0;
}

std::string_view token_type_name(TokenType type) {
  constexpr std::string_view kNames[] = {"?",     "uint8",   "int8",    "int16", "int32",
                                         "int64", "float64", "float32", "uint16"};
  return kNames[static_cast<size_t>(type)];
}

TokenType token_type_for_vocabulary(int64_t vocab_size) {
  return vocab_size < 65500 ? TokenType::uint16 : TokenType::int32;
}

std::filesystem::path dataset_prefix(const std::filesystem::path& path) {
  return path.extension() == ".bin" || path.extension() == ".idx"
             ? std::filesystem::path(path).replace_extension()
             : path;
}

IndexedDataset::IndexedDataset(const std::filesystem::path& path)
    : prefix_(dataset_prefix(path)), idx_(prefix_.string() + ".idx"), bin_(prefix_.string() + ".bin") {
  check_header();
  check_sequences();
  check_documents();
}

void IndexedDataset::check_header() {
  const std::string where = idx_.path().string();
  if (idx_.size() < kHeaderBytes)
    throw DataError(
        "{}: {} bytes are too few for a Megatron index (header {} bytes): it is truncated; build or copy it "
        "again",
        where, idx_.size(), kHeaderBytes);
  const std::byte* data = idx_.data();
  if (std::memcmp(data, kMagic, sizeof kMagic) != 0)
    throw DataError("{}: byte 0: the magic is not MMIDIDX: this is no Megatron index of the mmap kind",
                    where);
  const uint64_t version = load<uint64_t>(data + 9);
  if (version != 1)
    throw DataError("{}: byte 9: version {} is unknown; only version 1 exists", where, version);
  const uint8_t code = load<uint8_t>(data + 17);
  if (code < 1 || code > 8)
    throw DataError("{}: byte 17: type code {} is unknown (1 to 8 exist)", where, code);
  type_ = static_cast<TokenType>(code);

  // 12 bytes a sequence and 8 a document: bound the counts by the file before multiplying.
  const uint64_t n = load<uint64_t>(data + 18), m = load<uint64_t>(data + 26);
  if (n > idx_.size() / 12)
    throw DataError("{}: byte 18: {} sequences do not fit into {} bytes: it is truncated or damaged", where,
                    n, idx_.size());
  if (m > idx_.size() / 8)
    throw DataError("{}: byte 26: {} document entries do not fit into {} bytes: it is truncated or damaged",
                    where, m, idx_.size());
  if (m == 0) throw DataError("{}: byte 26: 0 document entries; there is at least one, a final 0", where);
  const uint64_t plain = kHeaderBytes + 12 * n + 8 * m;
  if (idx_.size() != plain && idx_.size() != plain + n)
    throw DataError(
        "{}: {} sequences and {} document entries need {} bytes ({} with modes), the file has {}: it is "
        "truncated or damaged; build or copy it again",
        where, n, m, plain, plain + n, idx_.size());
  num_sequences_ = static_cast<int64_t>(n);
  num_documents_ = static_cast<int64_t>(m) - 1;
  lengths_ = data + kHeaderBytes;
  pointers_ = lengths_ + 4 * n;
  documents_ = pointers_ + 8 * n;
  modes_ = documents_ + 8 * m;
  has_modes_ = n > 0 && idx_.size() == plain + n;
}

void IndexedDataset::check_sequences() {
  const std::string where = idx_.path().string();
  const int64_t item = token_type_bytes(type_);
  const auto offset_of = [&](const std::byte* field) { return field - idx_.data(); };
  int64_t position = 0;
  for (int64_t i = 0; i < num_sequences_; ++i) {
    const int32_t length = load<int32_t>(lengths_, i);
    if (length < 0)
      throw DataError("{}: byte {}: sequence {} has length {}", where, offset_of(lengths_ + 4 * i), i,
                      length);
    const int64_t pointer = load<int64_t>(pointers_, i);
    if (pointer != position)
      throw DataError(
          "{}: byte {}: sequence {} points to byte {} of the .bin file, but the sequences before it end at "
          "{}: the index is damaged or its sequences are out of order",
          where, offset_of(pointers_ + 8 * i), i, pointer, position);
    position += length * item;  // cannot overflow: checked against the .bin file each time
    if (static_cast<uint64_t>(position) > bin_.size())
      throw DataError(
          "{}: byte {}: sequence {} ends at byte {} of {}, which has {} bytes: one of the files is truncated "
          "or they do not belong together",
          where, offset_of(lengths_ + 4 * i), i, position, bin_path(), bin_.size());
    longest_sequence_ = std::max<int64_t>(longest_sequence_, length);
  }
  if (static_cast<uint64_t>(position) != bin_.size())
    throw DataError("{}: the index accounts for {} bytes, the file has {}: the files do not belong together",
                    bin_path(), position, bin_.size());
  num_tokens_ = position / item;
}

void IndexedDataset::check_documents() {
  const std::string where = idx_.path().string();
  int64_t before = 0;
  for (int64_t d = 0; d <= num_documents_; ++d) {
    const int64_t begin = load<int64_t>(documents_, d);
    const auto offset = documents_ + 8 * d - idx_.data();
    if (d == 0 && begin != 0)
      throw DataError("{}: byte {}: the first document begins at sequence {}, not 0", where, offset, begin);
    if (begin < before || begin > num_sequences_)
      throw DataError("{}: byte {}: document {} begins at sequence {}, outside {} to {}", where, offset, d,
                      begin, before, num_sequences_);
    before = begin;
  }
  if (before != num_sequences_)
    throw DataError("{}: byte {}: the documents end at sequence {} of {}", where,
                    documents_ + 8 * num_documents_ - idx_.data(), before, num_sequences_);
}

int32_t IndexedDataset::sequence_length(int64_t sequence) const {
  FATHOM_ASSERT(sequence >= 0 && sequence < num_sequences_);
  return load<int32_t>(lengths_, sequence);
}

int64_t IndexedDataset::sequence_pointer(int64_t sequence) const {
  FATHOM_ASSERT(sequence >= 0 && sequence < num_sequences_);
  return load<int64_t>(pointers_, sequence);
}

int8_t IndexedDataset::sequence_mode(int64_t sequence) const {
  FATHOM_ASSERT(sequence >= 0 && sequence < num_sequences_);
  return has_modes_ ? load<int8_t>(modes_, sequence) : int8_t{0};
}

int64_t IndexedDataset::document_begin(int64_t document) const {
  FATHOM_ASSERT(document >= 0 && document <= num_documents_);
  return load<int64_t>(documents_, document);
}

std::span<const std::byte> IndexedDataset::lengths_bytes() const {
  return {lengths_, static_cast<size_t>(num_sequences_) * sizeof(int32_t)};
}

std::span<const std::byte> IndexedDataset::modes_bytes() const {
  return {modes_, has_modes_ ? static_cast<size_t>(num_sequences_) : 0};
}

std::span<const std::byte> IndexedDataset::sequence_bytes(int64_t sequence) const {
  return {bin_.data() + sequence_pointer(sequence),
          static_cast<size_t>(sequence_length(sequence) * token_type_bytes(type_))};
}

uint64_t IndexedDataset::index_hash() const { return XXH64(idx_.data(), idx_.size(), 0); }

uint64_t IndexedDataset::bin_hash(size_t end_bytes) const {
  const size_t count = std::min(end_bytes, bin_.size());
  const uint64_t first = XXH64(bin_.data(), count, bin_.size());
  return count == 0 ? first : XXH64(bin_.data() + bin_.size() - count, count, first);
}

void IndexedDataset::read(int64_t sequence, int64_t begin, int64_t count, int32_t* out) const {
  FATHOM_ASSERT(begin >= 0 && count >= 0 && begin + count <= sequence_length(sequence));
  const std::byte* from = bin_.data() + sequence_pointer(sequence) + begin * token_type_bytes(type_);
  switch (type_) {
    case TokenType::uint8:
      return convert<uint8_t>(from, count, out);
    case TokenType::int8:
      return convert<int8_t>(from, count, out);
    case TokenType::int16:
      return convert<int16_t>(from, count, out);
    case TokenType::uint16:
      return convert<uint16_t>(from, count, out);
    case TokenType::int32:
      if (count > 0) std::memcpy(out, from, static_cast<size_t>(count) * 4);
      return;
    case TokenType::int64:
      for (int64_t i = 0; i < count; ++i) {
        const int64_t id = load<int64_t>(from, i);
        if (id != static_cast<int32_t>(id))
          throw DataError("{}: byte {} (sequence {}, token {}): {} is no token id", bin_path(),
                          sequence_pointer(sequence) + (begin + i) * 8, sequence, begin + i, id);
        out[i] = static_cast<int32_t>(id);
      }
      return;
    case TokenType::float32:
    case TokenType::float64:
      throw DataError("{}: it holds {} values, not token ids", bin_path(), token_type_name(type_));
  }
}

}  // namespace fathom::formats

// Megatron's indexed dataset: PREFIX.bin holds token values back to back, PREFIX.idx says where sequences and
// documents begin. Byte-compatible with megatron-core's IndexedDataset and IndexedDatasetBuilder. Layout of
// .idx, little-endian:
//   byte 0   9 bytes "MMIDIDX\0\0"      byte 9   u64 version 1        byte 17  u8 type code
//   byte 18  u64 n, sequences           byte 26  u64 m, documents + 1
//   byte 34  int32[n] lengths in tokens; int64[n] pointers, byte offsets in .bin; int64[m] first sequence of
//   each
//            document, the last entry n; int8[n] modes, in multimodal datasets only
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/file.h"

namespace fathom::formats {

enum class TokenType : uint8_t {
  uint8 = 1,
  int8 = 2,
  int16 = 3,
  int32 = 4,
  int64 = 5,
  float64 = 6,
  float32 = 7,
  uint16 = 8,
};

int64_t token_type_bytes(TokenType type);
std::string_view token_type_name(TokenType type);
TokenType token_type_for_vocabulary(int64_t vocab_size);  // Megatron's rule: uint16 below 65,500, else int32

// PREFIX for PREFIX, PREFIX.bin and PREFIX.idx.
std::filesystem::path dataset_prefix(const std::filesystem::path& path);

// A mapped pair. Opening reads the index once, in O(sequences), and refuses with DataError (file, field, byte
// offset) whatever does not fit together: magic, version, type, sizes, pointers that are not the running sum
// of the lengths, documents out of order, a .bin of another size. Thread-safe.
class IndexedDataset {
 public:
  explicit IndexedDataset(const std::filesystem::path& path);  // throws FileError, DataError

  const std::filesystem::path& prefix() const { return prefix_; }
  std::string bin_path() const { return bin_.path().string(); }
  TokenType type() const { return type_; }
  int64_t num_sequences() const { return num_sequences_; }
  int64_t num_documents() const { return num_documents_; }
  int64_t num_tokens() const { return num_tokens_; }
  int64_t longest_sequence() const { return longest_sequence_; }
  bool has_modes() const { return has_modes_; }

  int32_t sequence_length(int64_t sequence) const;
  int64_t sequence_pointer(int64_t sequence) const;  // byte offset in .bin
  int8_t sequence_mode(int64_t sequence) const;      // 0 where there are no modes
  // First sequence of a document; document_begin(num_documents()) == num_sequences().
  int64_t document_begin(int64_t document) const;

  // The arrays as they lie in .idx, without alignment: int32 lengths, int8 modes (empty: none).
  std::span<const std::byte> lengths_bytes() const;
  std::span<const std::byte> modes_bytes() const;

  // The values as they lie in .bin, of a sequence.
  std::span<const std::byte> sequence_bytes(int64_t sequence) const;
  // `count` token ids from token `begin` of a sequence. Throws DataError: a float type, an id outside int32.
  void read(int64_t sequence, int64_t begin, int64_t count, int32_t* out) const;

  // xxHash64 of the whole .idx, and of the .bin's size, first and last `end_bytes` bytes.
  uint64_t index_hash() const;
  uint64_t bin_hash(size_t end_bytes) const;

 private:
  void check_header();
  void check_sequences();
  void check_documents();
  std::filesystem::path prefix_;
  MappedFile idx_, bin_;
  TokenType type_ = TokenType::int32;
  int64_t num_sequences_ = 0, num_documents_ = 0, num_tokens_ = 0, longest_sequence_ = 0;
  bool has_modes_ = false;
  const std::byte* lengths_ = nullptr;  // unaligned: the header has 34 bytes
  const std::byte* pointers_ = nullptr;
  const std::byte* documents_ = nullptr;
  const std::byte* modes_ = nullptr;
};

// Writes a pair in constant memory (lengths and documents spill to unnamed files beside the output). Both
// files appear at commit() or not at all; an older pair of this name stays until then.
class IndexedDatasetWriter {
 public:
  IndexedDatasetWriter(const std::filesystem::path& prefix, TokenType type);
  ~IndexedDatasetWriter();

  // Throws DataError naming the sequence: an id that the type cannot hold, over 2^31-1 tokens; FileError.
  void add_sequence(std::span<const int32_t> tokens);
  void end_document();                       // a document may have no sequence
  void append(const IndexedDataset& other);  // its sequences and documents; the type must be the same
  void append_document(const IndexedDataset& other, int64_t document);
  int64_t num_sequences() const;
  int64_t num_documents() const;
  int64_t num_tokens() const;
  void commit();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// For writers that make the arrays themselves. The header of .idx, and the commit of both files: a new .bin
// never stands beside an old .idx, a break in between leaves a missing .idx, which readers report.
// `before_index` runs when the .bin is in place.
void write_index_header(AtomicFile& idx, TokenType type, int64_t num_sequences, int64_t num_documents);
void commit_pair(const std::filesystem::path& prefix, AtomicFile& bin, AtomicFile& idx,
                 const std::function<void()>& before_index = {});

}  // namespace fathom::formats

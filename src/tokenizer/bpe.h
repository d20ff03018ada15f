// Byte-level byte-pair encoding: a vocabulary of byte strings and ranked merges. A piece starts as single
// bytes; the adjacent pair of lowest rank (the leftmost of equals) is merged until no pair is known. This is
// what HF's queue of merges computes: a pair only ever grows, so a queued merge is valid exactly while its
// pair is unchanged.
//
// Whole characters may stand at the start instead of their bytes (`Bpe::start`), with the same result, where
//   - the character by itself becomes one token, by merges of lower ranks than any merge that takes that token, so that
//     it is whole before the whole is needed, and
//   - no token reaches across one of its ends while cutting it or its neighbour there.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fathom::tokenizer {

// String -> id, flat and open-addressed. The strings live in one arena.
class StringTable {
 public:
  void reserve(size_t count);
  // False when the string is there already (its id is kept).
  bool insert(std::string_view text, int32_t id);
  int32_t find(std::string_view text) const;  // -1: unknown
  size_t size() const { return entries_.size(); }
  std::string_view text(size_t entry) const { return view(entries_[entry]); }
  int32_t id(size_t entry) const { return entries_[entry].id; }

 private:
  struct Entry {
    uint64_t hash;
    uint32_t begin, length;
    int32_t id;
  };
  std::string_view view(const Entry& entry) const { return {arena_.data() + entry.begin, entry.length}; }
  void grow(size_t slots);
  std::vector<char> arena_;
  std::vector<Entry> entries_;
  std::vector<uint32_t> slots_;  // entry + 1, 0 is free; a power of two, at most half full
};

class Bpe {
 public:
  // --- building; `where` names the file in messages, every fault is a ConfigError ---
  void reserve(size_t tokens, size_t merges);
  // `spelled`: the token as tokenizer.json writes it, in the byte alphabet of GPT-2 (byte 0x20 is U+0120,
  // ...).
  void add_token(std::string_view spelled, int64_t id, const std::string& where);
  void add_merge(std::string_view left, std::string_view right, const std::string& where);
  // In place of add_merge: any two tokens whose joined bytes are a token merge, its id being the rank (tiktoken). For
  // that many merges room is made here. Several pairs may share a rank.
  void add_merges_by_rank();
  // Call once after all tokens and merges.
  void finish(bool ignore_merges, const std::string& where);

  // --- use; const, thread-safe with one Scratch a thread ---
  struct Scratch;
  // Appends the ids of one piece (not empty, well-formed UTF-8).
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const;

  int32_t find(std::string_view spelled) const { return vocab_.find(spelled); }
  int32_t num_ids() const { return num_ids_; }  // highest id + 1
  bool has_id(int32_t id) const { return id >= 0 && id < num_ids_ && used_[static_cast<size_t>(id)]; }
  // The bytes a token stands for; tokens that are not spelled in the byte alphabet stand for their own text.
  std::string_view bytes(int32_t id) const {
    const auto i = static_cast<size_t>(id);
    return {bytes_.data() + byte_offsets_[i], byte_offsets_[i + 1] - byte_offsets_[i]};
  }
  const StringTable& vocab() const { return vocab_; }
  // The merges (left, right) in the order in which they count. Where several pairs share a rank (tiktoken), the one that
  // makes the token out of its bytes by merges of lower ranks; none where that leaves more than two parts.
  std::vector<std::pair<int32_t, int32_t>> merges() const;

 private:
  struct Merge {
    uint64_t pair = kNoPair;  // left << 32 | right
    uint32_t rank = 0;
    int32_t id = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};
  static constexpr uint32_t kNoRank = ~uint32_t{0};
  static uint64_t pair_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t merge_slot(uint64_t pair) const { return (pair * 0x9E3779B97F4A7C15ull) >> merge_shift_; }
  const Merge* find_merge(int32_t left, int32_t right) const;
  void insert_merge(const Merge& merge);
  void make_room();  // for one more merge
  // Finds the characters that may stand as one symbol.
  void find_whole_characters();
  bool is_risky(char before, char after) const {
    const size_t bit = static_cast<size_t>(static_cast<uint8_t>(before)) << 8 | static_cast<uint8_t>(after);
    return (risky_ends_[bit >> 6] >> (bit & 63) & 1) != 0;
  }
  // Writes the symbols that merging starts from (at most piece.size()); returns their number.
  size_t start(std::string_view piece, int32_t* ids) const;
  void encode_uncached(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const;
  void merge_short(int32_t* ids, size_t n, std::vector<int32_t>& out) const;
  void merge_long(size_t n, Scratch& scratch, std::vector<int32_t>& out) const;

  StringTable vocab_;     // by spelling
  StringTable by_bytes_;  // where whole pieces are looked up (ignore_merges)
  std::vector<Merge> merges_;
  size_t num_merges_ = 0;
  uint32_t next_rank_ = 0;
  int merge_shift_ = 63;
  std::array<int32_t, 256> byte_ids_{};
  std::vector<int32_t> character_ids_;  // of U+0080..U+FFFF, -1: its bytes stand at the start
  std::vector<uint64_t>
      risky_ends_;  // bit (last byte << 8 | first byte) of two adjacent characters: see is_risky
  static constexpr size_t kShort = 64;  // symbols; above, the scan for the lowest rank costs more than a heap
  std::string bytes_;
  std::vector<uint32_t> byte_offsets_;
  std::vector<bool> used_;
  int32_t num_ids_ = 0;
  bool ignore_merges_ = false;
};

// Working memory of one thread, with a direct-mapped cache of short pieces. Belongs to one Bpe at a time.
struct Bpe::Scratch {
  static constexpr size_t kKeyBytes = 24, kMaxIds = 8, kSlots = 1 << 15;
  struct Slot {
    char key[kKeyBytes];
    uint8_t length = 0, num_ids = 0;  // length 0: empty
    int32_t ids[kMaxIds];
  };
  void enable_cache() {
    if (cache.empty()) cache.resize(kSlots);
  }
  std::vector<Slot> cache;  // empty: no cache

  std::vector<int32_t> ids;
  std::vector<uint32_t> ranks, previous, next;
  std::vector<uint64_t> heap;
};

// The GPT-2 byte alphabet: the character that stands for each byte, and back (-1: stands for none).
const std::array<uint16_t, 256>& byte_alphabet();
int byte_of_character(uint32_t code_point);

}  // namespace fathom::tokenizer

#include "tokenizer/bpe.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace fathom::tokenizer {
namespace {

// A bound against files that would make us allocate gigabytes for one id.
constexpr int64_t kMaxId = 1 << 24;

constexpr uint32_t kAlphabetEnd = 0x144;  // the characters of the byte alphabet lie below

struct ByteAlphabet {
  std::array<uint16_t, 256> characters;
  std::array<int16_t, kAlphabetEnd> bytes;
  ByteAlphabet() {
    bytes.fill(-1);
    uint16_t next = 256;
    for (unsigned b = 0; b < 256; ++b) {
      const bool prints = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      characters[b] = prints ? static_cast<uint16_t>(b) : next++;
      bytes[characters[b]] = static_cast<int16_t>(b);
    }
  }
};

const ByteAlphabet& alphabet() {
  static const ByteAlphabet instance;
  return instance;
}

}  // namespace

const std::array<uint16_t, 256>& byte_alphabet() { return alphabet().characters; }

int byte_of_character(uint32_t code_point) {
  return code_point < kAlphabetEnd ? alphabet().bytes[code_point] : -1;
}

void StringTable::reserve(size_t count) {
  entries_.reserve(count);
  arena_.reserve(count * 8);
  grow(std::bit_ceil(count * 2 + 2));
}

void StringTable::grow(size_t slots) {
  slots_.assign(slots, 0);
  for (size_t i = 0; i < entries_.size(); ++i) {
    size_t slot = entries_[i].hash & (slots - 1);
    while (slots_[slot] != 0) slot = (slot + 1) & (slots - 1);
    slots_[slot] = static_cast<uint32_t>(i + 1);
  }
}

bool StringTable::insert(std::string_view text, int32_t id) {
  if (slots_.size() < entries_.size() * 2 + 2) grow(std::bit_ceil(entries_.size() * 4 + 16));
  const uint64_t hash = XXH3_64bits(text.data(), text.size());
  size_t slot = hash & (slots_.size() - 1);
  for (; slots_[slot] != 0; slot = (slot + 1) & (slots_.size() - 1)) {
    const Entry& entry = entries_[slots_[slot] - 1];
    if (entry.hash == hash && view(entry) == text) return false;
  }
  entries_.push_back({hash, static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(text.size()), id});
  arena_.insert(arena_.end(), text.begin(), text.end());
  slots_[slot] = static_cast<uint32_t>(entries_.size());
  return true;
}

int32_t StringTable::find(std::string_view text) const {
  if (slots_.empty()) return -1;
  const uint64_t hash = XXH3_64bits(text.data(), text.size());
  for (size_t slot = hash & (slots_.size() - 1); slots_[slot] != 0; slot = (slot + 1) & (slots_.size() - 1)) {
    const Entry& entry = entries_[slots_[slot] - 1];
    if (entry.hash == hash && view(entry) == text) return entry.id;
  }
  return -1;
}

void Bpe::reserve(size_t tokens, size_t merges) {
  vocab_.reserve(tokens);
  const size_t slots = std::bit_ceil(merges * 2 + 2);
  merges_.assign(slots, Merge{});
  merge_shift_ = 64 - std::countr_zero(slots);
}

void Bpe::add_token(std::string_view spelled, int64_t id, const std::string& where) {
  if (id < 0 || id > kMaxId)
    throw ConfigError("{}: model.vocab: the id {} of {:?} is outside 0..{}", where, id, std::string(spelled),
                      kMaxId);
  if (spelled.empty() || find_invalid_utf8(spelled) != std::string_view::npos)
    throw ConfigError("{}: model.vocab: the token with id {} is {}", where, id,
                      spelled.empty() ? "empty" : "not UTF-8");
  if (!vocab_.insert(spelled, static_cast<int32_t>(id)))
    throw ConfigError("{}: model.vocab: {:?} stands twice", where, std::string(spelled));
  num_ids_ = std::max(num_ids_, static_cast<int32_t>(id) + 1);
}

const Bpe::Merge* Bpe::find_merge(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(left, right);
  for (size_t slot = merge_slot(pair);; slot = (slot + 1) & (merges_.size() - 1)) {
    const Merge& merge = merges_[slot];
    if (merge.pair == pair) return &merge;
    if (merge.pair == kNoPair) return nullptr;
  }
}

void Bpe::insert_merge(const Merge& merge) {
  size_t slot = merge_slot(merge.pair);
  while (merges_[slot].pair != kNoPair && merges_[slot].pair != merge.pair)
    slot = (slot + 1) & (merges_.size() - 1);
  if (merges_[slot].pair == kNoPair) ++num_merges_;
  merges_[slot] = merge;  // a pair that stands twice keeps its last rank, as with HF
}

void Bpe::make_room() {
  if (merges_.size() >= num_merges_ * 2 + 2) return;
  std::vector<Merge> old(std::bit_ceil(num_merges_ * 4 + 16));
  old.swap(merges_);
  merge_shift_ = 64 - std::countr_zero(merges_.size());
  num_merges_ = 0;
  for (const Merge& merge : old)
    if (merge.pair != kNoPair) insert_merge(merge);
}

void Bpe::add_merges_by_rank() {
  for (size_t i = 0; i < vocab_.size(); ++i) {
    const std::string_view token = vocab_.text(i);
    for (const char* p = token.data();;) {
      next_code_point(p);
      const auto cut = static_cast<size_t>(p - token.data());
      if (cut == token.size()) break;
      const int32_t left = vocab_.find(token.substr(0, cut));
      const int32_t right = left < 0 ? -1 : vocab_.find(token.substr(cut));
      if (right < 0) continue;
      make_room();
      insert_merge({pair_of(left, right), static_cast<uint32_t>(vocab_.id(i)), vocab_.id(i)});
    }
  }
}

void Bpe::add_merge(std::string_view left, std::string_view right, const std::string& where) {
  const std::string merged = std::string(left) + std::string(right);
  const int32_t left_id = vocab_.find(left), right_id = vocab_.find(right), id = vocab_.find(merged);
  const uint32_t rank = next_rank_++;
  if (left_id < 0 || right_id < 0 || id < 0)
    throw ConfigError("{}: model.merges[{}]: {:?} is not in model.vocab", where, rank,
                      left_id < 0    ? std::string(left)
                      : right_id < 0 ? std::string(right)
                                     : merged);
  make_room();
  insert_merge({pair_of(left_id, right_id), rank, id});
}

std::vector<std::pair<int32_t, int32_t>> Bpe::merges() const {
  std::vector<Merge> by_rank;
  for (const Merge& merge : merges_)
    if (merge.pair != kNoPair) by_rank.push_back(merge);
  std::sort(by_rank.begin(), by_rank.end(), [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
  std::vector<std::pair<int32_t, int32_t>> result;
  std::vector<int32_t> parts;
  for (size_t i = 0; i < by_rank.size();) {
    size_t next = i + 1;
    while (next < by_rank.size() && by_rank[next].rank == by_rank[i].rank) ++next;
    parts = {static_cast<int32_t>(by_rank[i].pair >> 32), static_cast<int32_t>(by_rank[i].pair)};
    if (next - i > 1) {
      parts.clear();
      for (const char byte : bytes(by_rank[i].id)) parts.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
      while (parts.size() > 2) {
        size_t at = parts.size();
        const Merge* best = nullptr;
        for (size_t j = 0; j + 1 < parts.size(); ++j) {
          const Merge* merge = find_merge(parts[j], parts[j + 1]);
          if (merge && merge->rank < by_rank[i].rank && (!best || merge->rank < best->rank))
            best = merge, at = j;
        }
        if (!best) break;
        parts[at] = best->id;
        parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
      }
    }
    if (parts.size() == 2) result.emplace_back(parts[0], parts[1]);
    i = next;
  }
  return result;
}

void Bpe::finish(bool ignore_merges, const std::string& where) {
  ignore_merges_ = ignore_merges;
  if (merges_.empty()) reserve(0, 0);
  const auto count = static_cast<size_t>(num_ids_);
  used_.assign(count, false);
  std::vector<uint32_t> entry_of(count, 0);
  for (size_t i = 0; i < vocab_.size(); ++i) {
    const auto id = static_cast<size_t>(vocab_.id(i));
    if (used_[id])
      throw ConfigError("{}: model.vocab: the id {} stands for both {:?} and {:?}", where, id,
                        std::string(vocab_.text(entry_of[id])), std::string(vocab_.text(i)));
    used_[id] = true;
    entry_of[id] = static_cast<uint32_t>(i);
  }
  byte_ids_.fill(-1);
  byte_offsets_.assign(1, 0);
  byte_offsets_.reserve(count + 1);
  for (size_t id = 0; id < count; ++id) {
    if (used_[id]) {
      const std::string_view spelled = vocab_.text(entry_of[id]);
      const size_t begin = bytes_.size();
      for (const char* p = spelled.data(); p < spelled.data() + spelled.size();) {
        const int byte = byte_of_character(next_code_point(p));
        if (byte < 0) {
          bytes_.resize(begin);
          bytes_ += spelled;
          break;
        }
        bytes_ += static_cast<char>(byte);
      }
    }
    byte_offsets_.push_back(static_cast<uint32_t>(bytes_.size()));
  }
  for (unsigned b = 0; b < 256; ++b) {
    std::string spelled;
    append_utf8(spelled, byte_alphabet()[b]);
    byte_ids_[b] = vocab_.find(spelled);
    // Bytes that no UTF-8 text holds may be missing (they are in DeepSeek-V2's vocabulary).
    const bool occurs = b < 0xF5 && b != 0xC0 && b != 0xC1;
    if (byte_ids_[b] < 0 && occurs)
      throw ConfigError("{}: model.vocab has no token for the byte 0x{:02X}: not a byte-level vocabulary",
                        where, b);
  }
  find_whole_characters();
  if (!ignore_merges_) return;
  by_bytes_.reserve(vocab_.size());
  for (size_t id = 0; id < count; ++id) {
    // Only what is spelled in the byte alphabet can be a piece.
    if (!used_[id]) continue;
    const std::string_view token = bytes(static_cast<int32_t>(id));
    std::string spelled;
    for (const char c : token) append_utf8(spelled, byte_alphabet()[static_cast<unsigned char>(c)]);
    if (spelled == vocab_.text(entry_of[id])) by_bytes_.insert(token, static_cast<int32_t>(id));
  }
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const {
  if (piece.size() == 1) {
    out.push_back(byte_ids_[static_cast<unsigned char>(piece[0])]);
    return;
  }
  if (scratch.cache.empty() || piece.size() > Scratch::kKeyBytes) return encode_uncached(piece, scratch, out);

  const uint64_t hash = XXH3_64bits(piece.data(), piece.size());
  Scratch::Slot& slot = scratch.cache[hash & (Scratch::kSlots - 1)];
  if (slot.length == piece.size() && std::memcmp(slot.key, piece.data(), piece.size()) == 0) {
    out.insert(out.end(), slot.ids, slot.ids + slot.num_ids);
    return;
  }
  const size_t before = out.size();
  encode_uncached(piece, scratch, out);
  const size_t count = out.size() - before;
  if (count > Scratch::kMaxIds) return;
  slot.length = static_cast<uint8_t>(piece.size());
  slot.num_ids = static_cast<uint8_t>(count);
  std::memcpy(slot.key, piece.data(), piece.size());
  std::memcpy(slot.ids, out.data() + before, count * sizeof(int32_t));
}

void Bpe::encode_uncached(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const {
  if (ignore_merges_) {
    const int32_t id = by_bytes_.find(piece);
    if (id >= 0) {
      out.push_back(id);
      return;
    }
  }
  if (piece.size() <= kShort) {
    int32_t ids[kShort];
    merge_short(ids, start(piece, ids), out);
    return;
  }
  scratch.ids.resize(piece.size());
  const size_t n = start(piece, scratch.ids.data());
  if (n <= kShort)
    merge_short(scratch.ids.data(), n, out);
  else
    merge_long(n, scratch, out);
}

void Bpe::find_whole_characters() {
  character_ids_.assign(1 << 16, -1);
  std::vector<uint32_t> character_of(static_cast<size_t>(num_ids_), 0);  // 0: none
  std::vector<uint32_t> last_rank(static_cast<size_t>(num_ids_), 0);     // of the merges inside the character
  for (int32_t token = 0; token < num_ids_; ++token) {
    if (!has_id(token)) continue;
    const std::string_view text = bytes(token);
    if (text.size() < 2 || text.size() > 3 || find_invalid_utf8(text) != std::string_view::npos) continue;
    const char* p = text.data();
    const uint32_t character = next_code_point(p);
    if (p != text.data() + text.size()) continue;
    int32_t ids[3];
    size_t n = 0;
    for (const char c : text) ids[n++] = byte_ids_[static_cast<uint8_t>(c)];
    uint32_t last = 0;
    while (n > 1) {
      const Merge* first = find_merge(ids[0], ids[1]);
      const Merge* second = n == 3 ? find_merge(ids[1], ids[2]) : nullptr;
      const bool take_second = second != nullptr && (first == nullptr || second->rank < first->rank);
      const Merge* best = take_second ? second : first;
      if (best == nullptr) break;
      last = std::max(last, best->rank);
      ids[take_second ? 1 : 0] = best->id;
      if (!take_second) ids[1] = ids[2];
      --n;
    }
    if (n > 1) continue;
    character_ids_[character] = ids[0];
    character_of[static_cast<size_t>(ids[0])] = character;
    last_rank[static_cast<size_t>(ids[0])] = last;
  }

  risky_ends_.assign((1 << 16) / 64, 0);
  const auto mark = [&](char before, char after) {
    const size_t bit = static_cast<size_t>(static_cast<uint8_t>(before)) << 8 | static_cast<uint8_t>(after);
    risky_ends_[bit >> 6] |= uint64_t{1} << (bit & 63);
  };
  const auto continues = [](char c) { return (static_cast<uint8_t>(c) & 0xC0) == 0x80; };
  for (const Merge& merge : merges_) {
    if (merge.pair == kNoPair) continue;
    for (const size_t side :
         {static_cast<size_t>(merge.pair >> 32), static_cast<size_t>(merge.pair & 0xFFFFFFFF)})
      if (character_of[side] != 0 && merge.rank <= last_rank[side]) character_ids_[character_of[side]] = -1;
    const std::string_view token = bytes(merge.id);
    size_t begin = 0, last = token.size() - 1;
    while (begin < token.size() && continues(token[begin])) ++begin;
    if (begin > 0 && begin < token.size()) mark(token[begin - 1], token[begin]);
    while (last > 0 && continues(token[last])) --last;
    const auto lead = static_cast<uint8_t>(token[last]);
    const size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (last > 0 && token.size() - last < length) mark(token[last - 1], token[last]);
  }
}

size_t Bpe::start(std::string_view piece, int32_t* ids) const {
  size_t n = 0;
  const char* p = piece.data();
  const char* const begin = p;
  const char* const end = p + piece.size();
  while (p < end) {
    const auto lead = static_cast<uint8_t>(*p);
    if (lead < 0xC0 || lead >= 0xF0) {  // ASCII and the bytes of long characters
      ids[n++] = byte_ids_[lead];
      ++p;
      continue;
    }
    const char* const first = p;
    const int32_t id = character_ids_[next_code_point(p)];
    if (id >= 0 && !(first > begin && is_risky(first[-1], *first)) && !(p < end && is_risky(p[-1], *p))) {
      ids[n++] = id;
      continue;
    }
    for (const char* byte = first; byte < p; ++byte) ids[n++] = byte_ids_[static_cast<uint8_t>(*byte)];
  }
  return n;
}

void Bpe::merge_short(int32_t* ids, size_t n, std::vector<int32_t>& out) const {
  int32_t merged[kShort];
  uint32_t ranks[kShort];  // of the pair (i, i + 1)
  const auto look_up = [&](size_t i) {
    const Merge* merge = find_merge(ids[i], ids[i + 1]);
    ranks[i] = merge ? merge->rank : kNoRank;
    merged[i] = merge ? merge->id : -1;
  };
  for (size_t i = 0; i + 1 < n; ++i) __builtin_prefetch(&merges_[merge_slot(pair_of(ids[i], ids[i + 1]))]);
  for (size_t i = 0; i + 1 < n; ++i) look_up(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i)
      if (ranks[i] < ranks[best]) best = i;
    if (ranks[best] == kNoRank) break;
    ids[best] = merged[best];
    for (size_t i = best + 1; i + 1 < n; ++i) {
      ids[i] = ids[i + 1];
      ranks[i] = ranks[i + 1];
      merged[i] = merged[i + 1];
    }
    --n;
    if (best + 1 < n) look_up(best);
    if (best > 0) look_up(best - 1);
  }
  out.insert(out.end(), ids, ids + n);
}

void Bpe::merge_long(size_t n, Scratch& scratch, std::vector<int32_t>& out) const {
  auto& ids = scratch.ids;
  auto& ranks = scratch.ranks;
  auto& previous = scratch.previous;
  auto& next = scratch.next;
  auto& heap = scratch.heap;
  ranks.assign(n, kNoRank);
  previous.resize(n);
  next.resize(n);
  heap.clear();
  constexpr uint32_t kNone = ~uint32_t{0};
  for (size_t i = 0; i < n; ++i) {
    previous[i] = i == 0 ? kNone : static_cast<uint32_t>(i - 1);
    next[i] = i + 1 == n ? kNone : static_cast<uint32_t>(i + 1);
  }
  // A heap entry is rank << 32 | position; it is stale when the pair at the position has another rank by now.
  const auto look_up = [&](uint32_t i) {
    const Merge* merge = next[i] == kNone ? nullptr : find_merge(ids[i], ids[next[i]]);
    ranks[i] = merge ? merge->rank : kNoRank;
    return merge != nullptr;
  };
  const auto push = [&](uint32_t i) {
    if (!look_up(i)) return;
    heap.push_back(static_cast<uint64_t>(ranks[i]) << 32 | i);
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  for (uint32_t i = 0; i + 1 < n; ++i)
    if (look_up(i)) heap.push_back(static_cast<uint64_t>(ranks[i]) << 32 | i);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t top = heap.back();
    heap.pop_back();
    const auto i = static_cast<uint32_t>(top);
    if (ranks[i] != top >> 32) continue;
    const uint32_t right = next[i];
    ids[i] = find_merge(ids[i], ids[right])->id;
    ranks[right] = kNoRank;
    next[i] = next[right];
    if (next[i] != kNone) previous[next[i]] = i;
    push(i);
    if (previous[i] != kNone) push(previous[i]);
  }
  for (uint32_t i = 0; i != kNone; i = next[i]) out.push_back(ids[i]);
}

}  // namespace fathom::tokenizer

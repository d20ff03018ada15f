#include "data/index_cache.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <string_view>

#include "base/error.h"
#include "base/log.h"

namespace fathom::data {
namespace {

constexpr std::string_view kMagic = "FATHOMIX";
constexpr uint32_t kVersion = 1;
constexpr uint64_t kAlignment = 64;

uint64_t aligned(uint64_t offset) { return (offset + kAlignment - 1) / kAlignment * kAlignment; }

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// The arrays of a file that is whole and of this description; else why not.
std::string parse(const MappedFile& file, const std::string& description,
                  std::vector<std::span<const std::byte>>& arrays) {
  const std::byte* data = file.data();
  if (file.size() < 24 || file.text().substr(0, kMagic.size()) != kMagic) return "it is no sample index";
  if (load<uint32_t>(data + 8) != kVersion) return "it is of another version";
  const uint64_t count = load<uint32_t>(data + 12), described = load<uint64_t>(data + 16);
  if (24 + 8 * count > file.size() || described > file.size()) return "it is truncated or damaged";
  uint64_t at = 24 + 8 * count;
  if (at + described > file.size()) return "it is truncated or damaged";
  const std::string_view found = file.text().substr(at, described);
  at = aligned(at + described);
  for (uint64_t i = 0; i < count; ++i) {
    const auto bytes = load<uint64_t>(data + 24 + 8 * i);
    if (at > file.size() || bytes > file.size() - at) return "it is truncated or damaged";
    arrays.emplace_back(data + at, bytes);
    at = aligned(at + bytes);
  }
  if (at + 8 != file.size() || XXH64(data, at, 0) != load<uint64_t>(data + at))
    return "it is truncated or damaged";
  if (found != description) return "it was made from other inputs";
  return "";
}

// Counts and hashes what it passes on.
class HashedFile {
 public:
  explicit HashedFile(const std::filesystem::path& path) : file_(path) {}
  void write(const void* data, size_t bytes) {
    file_.write(data, bytes);
    XXH64_update(&state_, data, bytes);
  }
  void align() {
    static constexpr char kZeros[kAlignment] = {};
    write(kZeros, static_cast<size_t>(aligned(file_.offset()) - file_.offset()));
  }
  void commit() {
    const uint64_t hash = XXH64_digest(&state_);
    file_.write(&hash, sizeof hash);
    file_.commit_unsynced();  // the checksum tells
  }

 private:
  AtomicFile file_;
  XXH64_state_t state_ = [] {
    XXH64_state_t state;
    XXH64_reset(&state, 0);
    return state;
  }();
};

}  // namespace

std::filesystem::path IndexCache::path_of(const std::string& description) const {
  const XXH128_hash_t hash = XXH3_128bits(description.data(), description.size());
  return directory_ / fmt::format("{:016x}{:016x}.index", hash.high64, hash.low64);
}

std::optional<IndexCache::Entry> IndexCache::find(const std::string& description) const {
  if (directory_.empty()) return std::nullopt;
  const std::filesystem::path path = path_of(description);
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::nullopt;
  try {
    Entry entry{MappedFile(path), {}};
    const std::string fault = parse(entry.file, description, entry.arrays);
    if (fault.empty()) return entry;
    log::warning("{}: {}; the sample index is computed anew", path.string(), fault);
  } catch (const FileError& e) {
    log::warning("{}; the sample index is computed anew", e.what());
  }
  return std::nullopt;
}

void IndexCache::store(const std::string& description,
                       std::span<const std::span<const std::byte>> arrays) const {
  if (!may_write_) return;
  const std::filesystem::path path = path_of(description);
  // A name of its own: machines that share the directory may have equal process numbers.
  std::random_device random;
  const std::filesystem::path own = path.string() + fmt::format(".{:08x}{:08x}", random(), random());
  try {
    make_directories(directory_);
    HashedFile file(own);
    const auto put = [&](auto value) { file.write(&value, sizeof value); };
    file.write(kMagic.data(), kMagic.size());
    put(kVersion);
    put(static_cast<uint32_t>(arrays.size()));
    put(static_cast<uint64_t>(description.size()));
    for (const auto& array : arrays) put(static_cast<uint64_t>(array.size()));
    file.write(description.data(), description.size());
    file.align();
    for (const auto& array : arrays) {
      file.write(array.data(), array.size());
      file.align();
    }
    file.commit();
    std::error_code error;
    std::filesystem::rename(own, path, error);
    if (error) throw FileError("cannot put {} in place: {}", path.string(), error.message());
  } catch (const FileError& e) {
    std::error_code ignored;
    std::filesystem::remove(own, ignored);
    static std::atomic<bool> told{false};
    if (!told.exchange(true)) log::warning("the sample index is not kept for the next start: {}", e.what());
  }
}

}  // namespace fathom::data

#include "ops/allocator.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/alignment.h>
#include <malloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <unordered_map>

#include "base/error.h"

namespace fathom::ops {
namespace {

constexpr size_t kLargeBytes = size_t{1} << 20;
constexpr size_t kHugePage = size_t{2} << 20;
// A cached block serves a request that fills at least 7/8 of it.
constexpr size_t fits_up_to(size_t bytes) { return bytes + bytes / 7; }
// More than this share of the live bytes is not kept.
constexpr uint64_t kCachedShare = 4;
constexpr uint64_t kCachedFloor = uint64_t{256} << 20;
// Before the footprint grows past the most that was ever live by more than this, cached blocks are given back.
constexpr uint64_t kFootprintSlack = uint64_t{16} << 20;

// Whole huge pages would waste half of one a block: much, where a model's state is a thousand small blocks.
constexpr size_t rounded(size_t bytes) {
  constexpr size_t kUnit = size_t{1} << 16;
  return (bytes + kUnit - 1) / kUnit * kUnit;
}

// Mapped so that a huge page can lie under every part of it.
void* map_block(size_t bytes) {
  const size_t slack = bytes >= kHugePage ? kHugePage : 0;
  void* raw = mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED)
    throw Error("out of memory: a block of {} bytes cannot be had ({})", bytes, std::strerror(errno));
  if (slack == 0) return raw;
  const auto begin = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = (begin + kHugePage - 1) / kHugePage * kHugePage;
  if (aligned > begin) munmap(raw, aligned - begin);
  const size_t tail = begin + slack - aligned;
  if (tail > 0) munmap(reinterpret_cast<void*>(aligned + bytes), tail);
  madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);
  return reinterpret_cast<void*>(aligned);
}

class CachingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* block = bytes >= kLargeBytes ? allocate_large(rounded(bytes)) : allocate_small(bytes);
    return {block, block, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* destination, const void* source, size_t count) const override {
    std::memcpy(destination, source, count);
  }

  AllocatorStatistics statistics() {
    std::lock_guard lock(mutex_);
    return {live_bytes_, cached_bytes_};
  }
  void trim(uint64_t keep) {
    std::lock_guard lock(mutex_);
    trim_locked(keep);
  }

 private:
  static void release(void* block);

  static void* allocate_small(size_t bytes) {
    void* block = nullptr;
    if (bytes > 0 && posix_memalign(&block, c10::gAlignment, bytes) != 0)
      throw Error("out of memory: {} bytes cannot be had", bytes);
    return block;
  }

  void* allocate_large(size_t bytes) {
    std::lock_guard lock(mutex_);
    void* block;
    const auto cached = cache_.lower_bound(bytes);
    if (cached != cache_.end() && cached->first <= fits_up_to(bytes)) {
      bytes = cached->first;
      block = cached->second;
      cached_bytes_ -= bytes;
      cache_.erase(cached);
    } else {
      peak_live_bytes_ = std::max(peak_live_bytes_, live_bytes_ + bytes);
      trim_locked(peak_live_bytes_ + kFootprintSlack - live_bytes_ - bytes);
      block = map_block(bytes);
    }
    live_.emplace(block, bytes);
    live_bytes_ += bytes;
    peak_live_bytes_ = std::max(peak_live_bytes_, live_bytes_);
    return block;
  }

  void free_block(void* block) {
    std::unique_lock lock(mutex_);
    const auto found = live_.find(block);
    if (found == live_.end()) {
      lock.unlock();
      std::free(block);
      return;
    }
    const size_t bytes = found->second;
    live_.erase(found);
    live_bytes_ -= bytes;
    cache_.emplace(bytes, block);
    cached_bytes_ += bytes;
    trim_locked(std::max(kCachedFloor, live_bytes_ / kCachedShare));
  }

  // The smallest blocks go last: they are asked for the most.
  void trim_locked(uint64_t keep) {
    while (cached_bytes_ > keep) {
      const auto largest = std::prev(cache_.end());
      munmap(largest->second, largest->first);
      cached_bytes_ -= largest->first;
      cache_.erase(largest);
    }
  }

  std::mutex mutex_;
  std::multimap<size_t, void*> cache_;
  std::unordered_map<void*, size_t> live_;
  uint64_t live_bytes_ = 0, cached_bytes_ = 0, peak_live_bytes_ = 0;
};

// Never destroyed: tensors of static life may be freed after main.
CachingAllocator& allocator() {
  static auto* instance = new CachingAllocator;
  return *instance;
}

void CachingAllocator::release(void* block) {
  if (block) allocator().free_block(block);
}

}  // namespace

void install_caching_allocator() { c10::SetCPUAllocator(&allocator(), /*priority=*/1); }

AllocatorStatistics allocator_statistics() { return allocator().statistics(); }

void trim_allocator_cache() {
  allocator().trim(0);
  malloc_trim(0);
}

}  // namespace fathom::ops

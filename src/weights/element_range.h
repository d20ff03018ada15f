// Consecutive elements of a parameter's flat memory, and how the ranks that hold the same parameter share them out.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fathom::weights {

struct ElementRange {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
  bool empty() const { return end <= begin; }
  bool operator==(const ElementRange&) const = default;
};

inline ElementRange intersection(ElementRange a, ElementRange b) {
  const int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

// Cuts fall on multiples of this: whole vectors, whole cache lines.
inline constexpr int64_t kShareUnit = 64;

// The share of the rank at `place` among `size` ranks: all shares together are [0, numel), in the order of the places,
// and differ by at most one unit (that of a small parameter may be empty).
inline ElementRange share_of(int64_t numel, int64_t place, int64_t size) {
  const int64_t units = (numel + kShareUnit - 1) / kShareUnit;
  return {std::min(numel, units * place / size * kShareUnit),
          std::min(numel, units * (place + 1) / size * kShareUnit)};
}

}  // namespace fathom::weights

#include "base/random.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cmath>
#include <numbers>

namespace fathom {

std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  std::array<uint32_t, 4> c = {static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
                               static_cast<uint32_t>(counter_high),
                               static_cast<uint32_t>(counter_high >> 32)};
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0], p1 = uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

uint64_t stream_key(uint64_t seed, std::string_view name) { return XXH64(name.data(), name.size(), seed); }

void fill_normal(uint64_t key, uint64_t first_index, int64_t count, float mean, float std, float* out) {
  int64_t done = 0;
  while (done < count) {
    const uint64_t index = first_index + static_cast<uint64_t>(done), block = index / 4;
    const auto bits = philox(key, block, 0);
    float normals[4];
    for (int pair = 0; pair < 2; ++pair) {
      // u in (0, 1], so that the logarithm is finite
      const float u = (static_cast<float>(bits[2 * pair] >> 8) + 1.0f) * 0x1p-24f;
      const float angle =
          static_cast<float>(bits[2 * pair + 1] >> 8) * 0x1p-24f * 2.0f * std::numbers::pi_v<float>;
      const float radius = std::sqrt(-2.0f * std::log(u));
      normals[2 * pair] = radius * std::cos(angle);
      normals[2 * pair + 1] = radius * std::sin(angle);
    }
    for (uint64_t lane = index % 4; lane < 4 && done < count; ++lane, ++done)
      out[done] = mean + std * normals[lane];
  }
}

double uniform(uint64_t key, uint64_t counter) {
  const auto bits = philox(key, counter, 0);
  const uint64_t wide = (uint64_t{bits[0]} << 32) | bits[1];
  return static_cast<double>(wide >> 11) * 0x1p-53;
}

}  // namespace fathom

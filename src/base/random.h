// Counter-based randomness: Philox4x32-10 (Salmon et al., SC'11). A value is a function of (key, counter), so any
// layout, thread count or restart draws the same numbers.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace fathom {

std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_low, uint64_t counter_high);

// Key of a named stream under a seed (xxHash64 of the name, seeded).
uint64_t stream_key(uint64_t seed, std::string_view name);

// Standard normal value number `index` of the stream: Box-Muller on one Philox block per 4 values.
void fill_normal(uint64_t key, uint64_t first_index, int64_t count, float mean, float std, float* out);

// Uniform in [0, 1) with 53 bits.
double uniform(uint64_t key, uint64_t counter);

}  // namespace fathom

// IEEE half precision as it lies in memory, and its conversions: to float exact, from float to nearest even (NaN stays
// NaN, too large becomes infinite).
#pragma once

#include <bit>
#include <cstdint>

namespace fathom {

struct f16 {
  uint16_t bits;
};

inline float to_float(f16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u)  // infinite or NaN
    return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // As a float of the same bits the exponent is 112 too small; subnormals come out right as well.
  const float value = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
}

inline f16 to_f16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const float magnitude = std::bit_cast<float>(u & 0x7fffffffu);
  if (magnitude != magnitude) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00u)};
  if (magnitude < 0x1p-14f)  // subnormal: a multiple of 2^-24, rounded by the addition
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(magnitude + 0.5f) - 0x3f000000u))};
  const uint32_t bits = std::bit_cast<uint32_t>(magnitude) - (112u << 23);
  return {static_cast<uint16_t>(sign | ((bits + 0xfffu + ((bits >> 13) & 1u)) >> 13))};
}

}  // namespace fathom

// IEEE half precision as it lies in memory, to float: exact.
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

}  // namespace fathom

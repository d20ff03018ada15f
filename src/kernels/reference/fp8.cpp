#include "kernels/fp8.h"

#include <array>
#include <cmath>
#include <cstring>

#include "kernels/dispatch.h"

namespace fathom::kernels::reference {
namespace {

float value_of(uint8_t code) {
  static const std::array<float, 256> kValues = [] {
    std::array<float, 256> table{};
    for (size_t i = 0; i < table.size(); ++i) table[i] = e4m3_value(static_cast<uint8_t>(i));
    return table;
  }();
  return kValues[code];
}

}  // namespace

void dequantize_fp8_range(const uint8_t* codes, float scale, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const float value = value_of(codes[i]) * scale;
    std::memcpy(out + i, &value, sizeof value);
  }
}

void dequantize_fp8_range(const uint8_t* codes, float scale, int64_t count, bf16* out) {
  for (int64_t i = 0; i < count; ++i) {
    const bf16 value = to_bf16(value_of(codes[i]) * scale);
    std::memcpy(out + i, &value, sizeof value);
  }
}

float absolute_max_range(const float* values, int64_t count) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (std::isnan(values[i])) return std::fabs(values[i]);
    largest = std::fmax(largest, std::fabs(values[i]));
  }
  return largest;
}

void quantize_fp8_range(const float* values, float scale, int64_t count, uint8_t* codes) {
  for (int64_t i = 0; i < count; ++i) codes[i] = to_e4m3(values[i] / scale);
}

}  // namespace fathom::kernels::reference

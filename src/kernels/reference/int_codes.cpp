#include "kernels/int_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/dispatch.h"

namespace fathom::kernels::reference {

void quantize_int_range(const float* values, float scale, int lowest, int highest, int64_t count,
                        int8_t* codes) {
  for (int64_t i = 0; i < count; ++i)
    codes[i] = static_cast<int8_t>(std::clamp(std::nearbyint(values[i] / scale), static_cast<float>(lowest),
                                              static_cast<float>(highest)));
}

void dequantize_int_range(const int8_t* codes, float scale, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const float value = static_cast<float>(codes[i]) * scale;
    std::memcpy(out + i, &value, sizeof value);
  }
}

void dequantize_int_range(const int8_t* codes, float scale, int64_t count, bf16* out) {
  for (int64_t i = 0; i < count; ++i) {
    const bf16 value = to_bf16(static_cast<float>(codes[i]) * scale);
    std::memcpy(out + i, &value, sizeof value);
  }
}

CodeError code_error_range(const float* values, const float* decoded, int64_t count) {
  CodeError sums;
  for (int64_t i = 0; i < count; ++i) {
    const double value = values[i], error = decoded[i] - value;
    sums.squared_error += error * error;
    sums.squared_values += value * value;
    sums.largest_error = std::fmax(sums.largest_error, std::fabs(error));
  }
  return sums;
}

}  // namespace fathom::kernels::reference

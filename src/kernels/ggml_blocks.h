// ggml's block codes of 32 values under one half-precision scale, bit for bit as its reference quantisers write them
// (ggml-org/ggml, quantize_row_q8_0_ref and quantize_row_q4_0_ref). Single-threaded: callers share out blocks. No
// alignment is asked.
#pragma once

#include <cstdint>

namespace fathom::kernels {

inline constexpr int64_t kGgmlBlock = 32;
inline constexpr int64_t kQ8_0Bytes = 34;  // f16 scale, 32 x int8
inline constexpr int64_t kQ4_0Bytes = 18;  // f16 scale, 16 bytes: value i in the low, i + 16 in the high half

// count is a multiple of 32. Q8_0: scale = largest |value| / 127, code = value / scale to nearest, halves away from
// zero; Q4_0: scale = the value of largest size / -8, code = trunc(value / scale + 8.5), at most 15. The division is a
// product with 1 / scale in float, and the codes are made before the scale is rounded to f16. False: a value is not
// finite, or a scale too large for f16; what is written then means nothing.
bool quantize_q8_0(const float* values, int64_t count, uint8_t* out);
bool quantize_q4_0(const float* values, int64_t count, uint8_t* out);

// value = scale * code in float.
void dequantize_q8_0(const uint8_t* blocks, int64_t count, float* out);
void dequantize_q4_0(const uint8_t* blocks, int64_t count, float* out);

}  // namespace fathom::kernels

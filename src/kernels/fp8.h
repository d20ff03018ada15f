// float8 e4m3 ("fn": no infinities, 0x7f and 0xff are NaN, largest 448) under one scale: runs of the blocks that
// DeepSeek's checkpoints are cut into. Single-threaded: callers share out rows and blocks. No alignment is asked.
#pragma once

#include <cstdint>

#include "base/bfloat16.h"

namespace fathom::kernels {

inline constexpr float kLargestE4m3 = 448;
inline constexpr int64_t kFp8Block =
    128;  // rows, and columns, of a matrix that share a scale in DeepSeek's files

float e4m3_value(uint8_t code);
// To nearest even; what is larger than 448 in size becomes 448, NaN stays NaN.
uint8_t to_e4m3(float value);

// out = value(code) * scale, rounded once to float; then, for bf16, to nearest even. The same bits from every body.
void dequantize_fp8(const uint8_t* codes, float scale, int64_t count, float* out);
void dequantize_fp8(const uint8_t* codes, float scale, int64_t count, bf16* out);

// The largest |value|; NaN if one of them is; 0 of nothing.
float absolute_max(const float* values, int64_t count);
// codes = to_e4m3(value / scale).
void quantize_fp8(const float* values, float scale, int64_t count, uint8_t* codes);

}  // namespace fathom::kernels

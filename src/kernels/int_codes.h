// Weights as small integers under one scale: runs of a row that share it. value = code * scale, as compressed-tensors
// stores them. Single-threaded: callers share out rows. No alignment is asked.
#pragma once

#include <cstdint>

#include "base/bfloat16.h"

namespace fathom::kernels {

inline constexpr int kLowestInt4 = -8, kHighestInt4 = 7;
inline constexpr int kHighestInt8 = 127;  // -128 is never written: symmetric kernels need no care for it

// codes = value / scale in float, rounded to nearest even, held in [-127, 127] or [-8, 7]. Values finite, scale > 0.
void quantize_int8(const float* values, float scale, int64_t count, int8_t* codes);
void quantize_int4(const float* values, float scale, int64_t count, int8_t* codes);  // a byte each

// out = code * scale, rounded once to float; then, for bf16, to nearest even. The same bits from every body.
void dequantize_int(const int8_t* codes, float scale, int64_t count, float* out);
void dequantize_int(const int8_t* codes, float scale, int64_t count, bf16* out);

// Two codes a byte as code + 8, the first in the low half: on a little-endian machine, the first of eight is in the
// lowest bits of an I32. count may be odd; the half byte behind it is written as 0.
void pack_int4(const int8_t* codes, int64_t count, uint8_t* packed);
// Of `packed`, codes [begin, begin + count).
void unpack_int4(const uint8_t* packed, int64_t begin, int64_t count, int8_t* codes);

// What codes lose: sums over decoded - value and value, squared, and the largest |decoded - value|. Accumulated in double.
struct CodeError {
  double squared_error = 0, squared_values = 0, largest_error = 0;
};
CodeError code_error(const float* values, const float* decoded, int64_t count);

}  // namespace fathom::kernels

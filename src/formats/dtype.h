// Element types of the safetensors format (its specification names them as here), without LibTorch.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace fathom::formats {

// clang-format off
enum class Dtype : uint8_t {
  F64, F32, F16, BF16,
  I64, I32, I16, I8,
  U64, U32, U16, U8, BOOL,
  F8_E4M3, F8_E5M2, F8_E8M0,   // E4M3 is the "fn" kind: no infinities
  F8_E4M3FNUZ, F8_E5M2FNUZ,
  F4, F6_E2M3, F6_E3M2,        // packed, 4 and 6 bits an element
  C64,                         // two F32
};
// clang-format on

int64_t dtype_bits(Dtype dtype);           // of one element
std::string_view dtype_name(Dtype dtype);  // as written in a header
std::optional<Dtype> parse_dtype(std::string_view name);

}  // namespace fathom::formats

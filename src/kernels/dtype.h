// Types of the values that kernels read and write. f64 is accepted by every family and always runs the
// reference body (proofs and finite differences).
#pragma once

#include <cstdint>

namespace fathom::kernels {

enum class DType { f32, bf16, f64 };

inline constexpr int64_t size_of(DType type) { return type == DType::bf16 ? 2 : type == DType::f32 ? 4 : 8; }

}  // namespace fathom::kernels

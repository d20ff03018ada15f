// Element types of the files and of LibTorch, each in terms of the other.
#pragma once

#include <c10/core/ScalarType.h>

#include <optional>

#include "formats/dtype.h"

namespace fathom::weights {

// Nothing where LibTorch has no such type, or Fathom keeps no parameter in it.
inline std::optional<at::ScalarType> scalar_type(formats::Dtype dtype) {
  switch (dtype) {
    case formats::Dtype::F64:
      return at::kDouble;
    case formats::Dtype::F32:
      return at::kFloat;
    case formats::Dtype::F16:
      return at::kHalf;
    case formats::Dtype::BF16:
      return at::kBFloat16;
    default:
      return std::nullopt;
  }
}

inline std::optional<formats::Dtype> file_dtype(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return formats::Dtype::F64;
    case at::kFloat:
      return formats::Dtype::F32;
    case at::kHalf:
      return formats::Dtype::F16;
    case at::kBFloat16:
      return formats::Dtype::BF16;
    default:
      return std::nullopt;
  }
}

}  // namespace fathom::weights

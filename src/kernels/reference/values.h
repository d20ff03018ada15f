// Reading and writing values of any dtype as double, for the reference bodies; and the choice of a template
// by dtype.
#pragma once

#include <cstring>

#include "base/bfloat16.h"
#include "kernels/dtype.h"

namespace fathom::kernels::reference {

// Through memcpy: some outputs may lie over inputs of another type.
template <typename T>
double get(const T* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  if constexpr (sizeof(T) == 2) {
    return to_float(value);
  } else {
    return value;
  }
}

template <typename T>
T rounded(double x) {
  if constexpr (sizeof(T) == 2) {
    return to_bf16(static_cast<float>(x));
  } else {
    return static_cast<T>(x);
  }
}

template <typename T>
void put(T* p, double x) {
  const T value = rounded<T>(x);
  std::memcpy(p, &value, sizeof(T));
}

// fn(T()) with T the type's C++ type.
template <typename Fn>
decltype(auto) with_type(DType type, Fn&& fn) {
  if (type == DType::bf16) return fn(bf16());
  if (type == DType::f64) return fn(double());
  return fn(float());
}

}  // namespace fathom::kernels::reference

// What kernel tests share: random values with outliers, arrays between guards, every instruction set in turn,
// numbers of threads, derivatives.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/bfloat16.h"
#include "base/parallel.h"
#include "kernels/dtype.h"
#include "kernels/isa.h"
#include "support/compare.h"

namespace fathom::kernels::testing {

using fathom::testing::as_double;
using fathom::testing::Bound;
using fathom::testing::close;
using fathom::testing::kEpsBf16;
using fathom::testing::kEpsF32;
using fathom::testing::same_bits;

template <typename T>
T from_double(double x) {
  if constexpr (sizeof(T) == 2) {
    return to_bf16(static_cast<float>(x));
  } else {
    return static_cast<T>(x);
  }
}

template <typename T>
constexpr DType dtype_of() {
  return sizeof(T) == 2 ? DType::bf16 : sizeof(T) == 4 ? DType::f32 : DType::f64;
}

template <typename T>
constexpr double eps_of() {
  return sizeof(T) == 2 ? kEpsBf16 : kEpsF32;
}

// Normal values; one in `outlier_every` is twenty times as large (0: none).
template <typename T>
std::vector<T> random_values(int64_t count, uint32_t seed, double deviation = 1, int outlier_every = 97) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, deviation);
  std::vector<T> values(static_cast<std::size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    values[static_cast<std::size_t>(i)] = from_double<T>(
        normal(generator) * (outlier_every && i % outlier_every == outlier_every - 1 ? 20 : 1));
  return values;
}

// The same in rows of `dim`, with `gap` NaN behind each, which must be neither read nor written.
template <typename T>
std::vector<T> random_rows(int64_t rows, int64_t dim, int64_t gap, uint32_t seed) {
  std::vector<T> values = random_values<T>(rows * (dim + gap), seed);
  for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i)
    if (i % (dim + gap) >= dim) values[static_cast<std::size_t>(i)] = from_double<T>(NAN);
  return values;
}

template <typename T>
double largest_finite(const std::vector<T>& values) {
  double largest = 0;
  for (const T& x : values)
    if (std::isfinite(as_double(x))) largest = std::max(largest, std::abs(as_double(x)));
  return largest;
}

// The fast sets that this processor has.
inline std::vector<Isa> fast_sets() {
  std::vector<Isa> sets;
  for (Isa candidate : {Isa::avx2, Isa::avx512, Isa::amx})
    if (is_supported(candidate)) sets.push_back(candidate);
  return sets;
}

inline std::vector<Isa> all_sets() {
  std::vector<Isa> sets = fast_sets();
  sets.push_back(Isa::reference);
  return sets;
}

// Runs fn under a forced set, and puts the old one back.
template <typename Fn>
auto under(Isa set, Fn&& fn) {
  struct Restore {
    Isa before = isa();
    ~Restore() { force_isa(before); }
  } restore;
  force_isa(set);
  return fn();
}

// Puts the number of threads back.
class ThreadsRestored {
 public:
  ThreadsRestored() = default;
  ~ThreadsRestored() { set_num_threads(before_); }
  ThreadsRestored(const ThreadsRestored&) = delete;
  ThreadsRestored& operator=(const ThreadsRestored&) = delete;

 private:
  int before_ = num_threads();
};

// d loss() / d value by central difference.
template <typename Loss>
double derivative(double& value, const Loss& loss, double h = 1e-5) {
  const double at = value;
  value = at + h;
  const double up = loss();
  value = at - h;
  const double down = loss();
  value = at;
  return (up - down) / (2 * h);
}

// An array that starts `misalignment` elements past an aligned address, between guard zones that must stay as
// they are.
template <typename T>
class Guarded {
 public:
  explicit Guarded(int64_t count, int64_t misalignment = 0)
      : count_(count),
        start_(kGuard + misalignment),
        memory_(static_cast<std::size_t>(start_ + count + kGuard) * sizeof(T), kPattern) {}
  Guarded(const std::vector<T>& values, int64_t misalignment = 0)
      : Guarded(static_cast<int64_t>(values.size()), misalignment) {
    if (count_) std::memcpy(data(), values.data(), values.size() * sizeof(T));
  }
  T* data() { return reinterpret_cast<T*>(memory_.data()) + start_; }
  std::vector<T> values() { return std::vector<T>(data(), data() + count_); }
  bool is_intact() const {
    const std::size_t begin = static_cast<std::size_t>(start_) * sizeof(T);
    const std::size_t end = begin + static_cast<std::size_t>(count_) * sizeof(T);
    for (std::size_t i = 0; i < memory_.size(); ++i)
      if ((i < begin || i >= end) && memory_[i] != kPattern) return false;
    return true;
  }

 private:
  static constexpr int64_t kGuard = 64;
  static constexpr unsigned char kPattern = 0xff;  // a NaN in every type: what is read by mistake shows
  int64_t count_, start_;
  std::vector<unsigned char> memory_;
};

}  // namespace fathom::kernels::testing

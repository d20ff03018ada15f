// Comparison of a computed array with the expected one, in three gates: equal NaN/Inf masks, a bound on every
// element, and a bound on the cosine difference of the whole. Bounds come from the epsilon of the types and
// the length of the sums. The message names the worst element and how much of its bound was used; a bound
// that is far too wide is a failure of thought, so `report` prints the share used when FATHOM_TEST_REPORT is
// set.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/bfloat16.h"

namespace fathom::testing {

inline double as_double(double x) { return x; }
inline double as_double(float x) { return x; }
inline double as_double(bf16 x) { return to_float(x); }

inline constexpr double kEpsF32 = 0x1p-24;  // half a unit in the last place, relative
inline constexpr double kEpsBf16 = 0x1p-8;

struct Bound {
  double relative = 0;  // of |expected|
  double absolute = 0;
  double cosine = 1;  // of 1 - cos(actual, expected); 1: not checked
};

template <typename T, typename U>
::testing::AssertionResult close(const std::vector<T>& actual, const std::vector<U>& expected,
                                 const Bound& bound, const std::string& what = "") {
  if (actual.size() != expected.size())
    return ::testing::AssertionFailure()
           << what << ": " << actual.size() << " values, expected " << expected.size();
  double worst = 0, dot = 0, actual_norm = 0, expected_norm = 0;
  std::size_t worst_idx = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double a = as_double(actual[i]), e = as_double(expected[i]);
    if (std::isnan(a) != std::isnan(e) || std::isinf(a) != std::isinf(e) || (std::isinf(a) && a != e))
      return ::testing::AssertionFailure() << what << " [" << i << "]: " << a << ", expected " << e;
    if (!std::isfinite(e)) continue;
    const double allowed = bound.relative * std::abs(e) + bound.absolute, error = std::abs(a - e);
    const double used = error == 0 ? 0 : allowed > 0 ? error / allowed : INFINITY;
    if (used > worst) {
      worst = used;
      worst_idx = i;
    }
    dot += a * e;
    actual_norm += a * a;
    expected_norm += e * e;
  }
  const double norms = std::sqrt(actual_norm) * std::sqrt(expected_norm);
  const double cosine = norms > 0 ? 1 - dot / norms : 0;
  if (std::getenv("FATHOM_TEST_REPORT"))
    std::printf("  %-40s uses %5.1f %% of its bound, cosine %.1e\n", what.c_str(), 100 * worst, cosine);
  if (worst <= 1 && cosine <= bound.cosine) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << what << ": worst at [" << worst_idx << "] of " << actual.size() << ": "
         << as_double(actual[worst_idx]) << ", expected " << as_double(expected[worst_idx]) << ", " << worst
         << " times its bound; cosine difference " << cosine;
}

// Bit for bit; names the first that differs.
template <typename T>
::testing::AssertionResult same_bits(const std::vector<T>& actual, const std::vector<T>& expected,
                                     const std::string& what = "") {
  if (actual.size() != expected.size())
    return ::testing::AssertionFailure()
           << what << ": " << actual.size() << " values, expected " << expected.size();
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (std::memcmp(&actual[i], &expected[i], sizeof(T)) == 0) continue;
    if constexpr (requires { as_double(actual[i]); }) {
      return ::testing::AssertionFailure()
             << what << " [" << i << "]: " << as_double(actual[i]) << ", expected " << as_double(expected[i]);
    } else {
      return ::testing::AssertionFailure()
             << what << " [" << i << "]: " << actual[i] << ", expected " << expected[i];
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace fathom::testing

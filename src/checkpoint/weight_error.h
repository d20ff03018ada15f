// What quantisation loses of the weights: sums that the threads that make the codes add to.
#pragma once

#include <cmath>
#include <cstdint>
#include <mutex>

#include "kernels/int_codes.h"

namespace fathom::checkpoint {

struct ErrorSums {
  double squared_error = 0, squared_values = 0;
  double largest_error = 0;
  int64_t elements = 0;  // 0: nothing was measured

  // |w' - w| / |w|, of all elements together (Frobenius norms).
  double relative() const { return squared_values == 0 ? 0 : std::sqrt(squared_error / squared_values); }
  void add(const ErrorSums& other);
  void add(const kernels::CodeError& error, int64_t count);
};

class WeightError {
 public:
  void add(const ErrorSums& sums) {
    const std::lock_guard lock(mutex_);
    sums_.add(sums);
  }
  ErrorSums sums() const {
    const std::lock_guard lock(mutex_);
    return sums_;
  }

 private:
  mutable std::mutex mutex_;
  ErrorSums sums_;
};

inline void ErrorSums::add(const ErrorSums& other) {
  squared_error += other.squared_error;
  squared_values += other.squared_values;
  largest_error = std::fmax(largest_error, other.largest_error);
  elements += other.elements;
}

inline void ErrorSums::add(const kernels::CodeError& error, int64_t count) {
  add(ErrorSums{error.squared_error, error.squared_values, error.largest_error, count});
}

}  // namespace fathom::checkpoint

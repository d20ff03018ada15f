#include "weights/tensor_slice.h"

#include "base/error.h"

namespace fathom::weights {

void for_each_overlap(const TensorSlice& a, const TensorSlice& b,
                      const std::function<void(int64_t, int64_t, int64_t)>& fn) {
  if (a.run.empty() || b.run.empty()) return;
  if (a.offset == b.offset && a.shape == b.shape) {
    const ElementRange both = intersection(a.run, b.run);
    if (!both.empty()) fn(both.begin - a.run.begin, both.begin - b.run.begin, both.count());
    return;
  }
  FATHOM_ASSERT(!a.shape.empty() && a.shape.size() == b.shape.size());
  const size_t last = a.shape.size() - 1;
  const int64_t width = a.shape[last], left = a.offset[last] - b.offset[last];
  for (int64_t row = a.run.begin / width; row * width < a.run.end; ++row) {
    // The same row of b, if it has it.
    int64_t rest = row, row_of_b = 0, stride = 1;
    bool has_row = true;
    for (size_t d = last; d-- > 0;) {
      const int64_t at = rest % a.shape[d] + a.offset[d] - b.offset[d];
      rest /= a.shape[d];
      has_row = has_row && at >= 0 && at < b.shape[d];
      row_of_b += at * stride;
      stride *= b.shape[d];
    }
    if (!has_row) continue;
    // In elements of b: what a has of this row, what b's rectangle has, what b's run has.
    const int64_t start = row_of_b * b.shape[last], shift = start + left - row * width;
    const ElementRange of_a = intersection(a.run, {row * width, (row + 1) * width});
    const ElementRange both = intersection(
        intersection({of_a.begin + shift, of_a.end + shift}, {start, start + b.shape[last]}), b.run);
    if (!both.empty()) fn(both.begin - shift - a.run.begin, both.begin - b.run.begin, both.count());
  }
}

int64_t count_overlap(const TensorSlice& a, const TensorSlice& b) {
  int64_t total = 0;
  for_each_overlap(a, b, [&](int64_t, int64_t, int64_t count) { total += count; });
  return total;
}

}  // namespace fathom::weights

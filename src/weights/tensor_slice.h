// Which elements of a tensor a rank has: a run of a rectangle. What a checkpoint holds under one layout finds its place
// under another by these.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "weights/element_range.h"

namespace fathom::weights {

struct TensorSlice {
  std::vector<int64_t> offset, shape;  // the rectangle inside the whole tensor
  ElementRange run;                    // of its elements in row-major order
};

// Calls fn(in_a, in_b, count) for consecutive elements that both have; positions count from the start of each one's run.
// Both are slices of one tensor.
void for_each_overlap(const TensorSlice& a, const TensorSlice& b,
                      const std::function<void(int64_t in_a, int64_t in_b, int64_t count)>& fn);
int64_t count_overlap(const TensorSlice& a, const TensorSlice& b);

}  // namespace fathom::weights

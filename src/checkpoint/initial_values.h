// The initial values of a tensor: a function of (seed, HF name, global element index) alone, so that any
// layout, and `fathom init` without a model, starts from the same weights.
#pragma once

#include <cstdint>

#include "config/tensor_table.h"

namespace fathom::checkpoint {

// Values of elements [begin, begin + count) of the tensor's row-major order: normal(0, initializer_range) for
// matrices, 1 for norms, 0 for the router's correction bias. A tied copy (mtp_embedding, mtp_head) has its
// source's values.
void initial_values(const config::TensorSpec& spec, double initializer_range, uint64_t seed, int64_t begin,
                    int64_t count, float* out);

}  // namespace fathom::checkpoint

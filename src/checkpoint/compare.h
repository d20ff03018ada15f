// How what two paths store differs: names, dtypes, shapes and every value.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/inspect.h"

namespace fathom::checkpoint {

struct TensorDifference {
  std::string name;
  std::string what;         // "values", "dtype BF16, F32" or "shape [2], [3]"
  int64_t numel = 0;        // where the shapes agree
  bool has_values = false;  // the figures below are of values; else only `elements` counts, in bits
  // Elements whose bits differ; of two dtypes, and of fp8 blocks, whose values as float do.
  uint64_t elements = 0;
  double max_absolute = 0;  // |a - b|; a NaN that only one side has counts as infinite
  double relative = 0;      // |a - b| / |a|, 2-norms of the whole tensor
};

struct ConfigDifference {
  std::string key, first, second;  // of config.json, as JSON text; empty: absent
};

struct CheckpointDifference {
  std::vector<std::string> only_first, only_second;
  std::vector<TensorDifference> differing;  // in the order of the first
  std::vector<ConfigDifference> config;     // does not count as a difference of contents
  uint64_t compared = 0;                    // tensors whose values were read
  bool identical() const { return only_first.empty() && only_second.empty() && differing.empty(); }
};

// Fp8 matrices are compared by what they mean, code times scale, with one of any dtype on the other side; their scales
// count as tensors where both sides have them. Where one side is a config.json: names, dtypes and shapes. Throws
// CheckpointError (scales that do not fit), Error when stopped.
CheckpointDifference compare(const Inspection& first, const Inspection& second);

}  // namespace fathom::checkpoint

// Megatron's --split "98,1,1": which part of a dataset's sequences is for training, validation, test.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace fathom::data {

enum class Split { train = 0, valid = 1, test = 2 };
const char* split_name(Split split);

struct SequenceRange {
  int64_t begin = 0, end = 0;
  bool empty() const { return begin >= end; }
  int64_t size() const { return empty() ? 0 : end - begin; }
};

// The ranges of the three splits over `num_elements` elements, rounded as Megatron does (half to even). Up to
// three numbers >= 0, missing ones are 0. Throws ConfigError: anything else, a sum of 0.
std::array<SequenceRange, 3> split_ranges(const std::string& split, int64_t num_elements);

}  // namespace fathom::data

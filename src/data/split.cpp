#include "data/split.h"

#include <cmath>
#include <cstdlib>
#include <vector>

#include "base/error.h"
#include "data/numpy_random.h"

namespace fathom::data {

const char* split_name(Split split) {
  constexpr const char* kNames[] = {"train", "valid", "test"};
  return kNames[static_cast<size_t>(split)];
}

std::array<SequenceRange, 3> split_ranges(const std::string& split, int64_t num_elements) {
  const auto refuse = [&] {
    throw ConfigError("split \"{}\" is not up to three numbers >= 0 with commas between, such as \"98,1,1\"",
                      split);
  };
  std::vector<double> parts;
  const char* at = split.c_str();
  while (true) {
    char* after = nullptr;
    const double value = std::strtod(at, &after);
    if (after == at || !std::isfinite(value) || value < 0) refuse();
    parts.push_back(value);
    while (*after == ' ') ++after;
    if (*after == '\0') break;
    if (*after != ',') refuse();
    at = after + 1;
  }
  if (parts.size() > 3) refuse();
  parts.resize(3, 0.0);
  const double sum = numpy_sum(parts);
  if (sum <= 0) refuse();

  std::array<SequenceRange, 3> ranges;
  double begin = 0;
  for (size_t i = 0; i < 3; ++i) {
    const double end = begin + parts[i] / sum;
    if (end > begin) {
      const double elements = static_cast<double>(num_elements);
      ranges[i].begin = static_cast<int64_t>(std::nearbyint(begin * elements));
      ranges[i].end = static_cast<int64_t>(std::nearbyint(end * elements));
    }
    begin = end;
  }
  return ranges;
}

}  // namespace fathom::data

#include "base/sparkline.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace fathom {

std::string sparkline(const std::vector<double>& values, int width) {
  if (values.empty() || width < 1) return "";
  const size_t columns = std::min(values.size(), static_cast<size_t>(width));
  std::vector<double> means(columns, std::numeric_limits<double>::quiet_NaN());
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (size_t c = 0; c < columns; ++c) {
    const size_t begin = c * values.size() / columns, end = (c + 1) * values.size() / columns;
    double mean = 0;
    size_t count = 0;
    // A running mean, since the sum of values near the largest double is no number any more.
    for (size_t i = begin; i < end; ++i)
      if (std::isfinite(values[i])) mean += (values[i] - mean) / static_cast<double>(++count);
    if (count == 0 || !std::isfinite(mean)) continue;
    means[c] = mean;
    low = std::min(low, mean);
    high = std::max(high, mean);
  }
  static const char* const kBlocks[] = {"\u2581", "\u2582", "\u2583", "\u2584",
                                        "\u2585", "\u2586", "\u2587", "\u2588"};
  std::string text;
  for (const double mean : means) {
    if (std::isnan(mean)) {
      text += ' ';
      continue;
    }
    // Halves, since high - low may pass the largest double.
    const double range = high / 2 - low / 2;
    const double share = range > 0 ? (mean / 2 - low / 2) / range : 0;
    text += kBlocks[std::clamp(static_cast<int>(share * 8), 0, 7)];
  }
  return text;
}

}  // namespace fathom

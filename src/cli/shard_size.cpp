#include "cli/shard_size.h"

#include "base/error.h"

namespace fathom::cli {

uint64_t parse_shard_size(const std::string& text) {
  size_t end = 0;
  double value = -1;
  try {
    value = std::stod(text, &end);
  } catch (const std::exception&) {
  }
  const std::string unit = text.substr(end);
  const double factor = unit == "GB" ? 1e9 : unit == "MB" ? 1e6 : unit == "kB" ? 1e3 : unit.empty() ? 1 : 0;
  const double bytes = value * factor;
  if (!(bytes >= 1 && bytes < 1e18))
    throw UsageError("--max-shard-size {}: write a size such as 5GB, 500MB or 2e9", text);
  return static_cast<uint64_t>(bytes);
}

}  // namespace fathom::cli

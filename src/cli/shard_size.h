// The value of --max-shard-size.
#pragma once

#include <cstdint>
#include <string>

namespace fathom::cli {

// "5GB", "500MB", "2e9": bytes, in decimal units. Throws UsageError.
uint64_t parse_shard_size(const std::string& text);

}  // namespace fathom::cli

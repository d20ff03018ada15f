// What `fathom inspect` prints: text for people, JSON for scripts.
#pragma once

#include <string>

#include "base/json.h"
#include "checkpoint/compare.h"
#include "checkpoint/inspect.h"

namespace fathom::cli {

Json to_json(const checkpoint::Inspection& inspection);
Json to_json(const checkpoint::CheckpointDifference& difference);

std::string to_text(const checkpoint::Inspection& inspection, bool with_tensors);
// `with_tensors`: every difference, not the largest only.
std::string to_text(const checkpoint::CheckpointDifference& difference, const checkpoint::Inspection& first,
                    const checkpoint::Inspection& second, bool with_tensors);

}  // namespace fathom::cli

// The files of a conversion: written on all threads, each whole or not at all; a stopped conversion goes on with those
// that are missing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "base/json.h"
#include "checkpoint/saved_tensor.h"

namespace fathom::checkpoint {

struct ConvertReport {
  uint64_t bytes = 0;          // of all tensors
  uint64_t resumed_bytes = 0;  // of those that an earlier run had written
  size_t tensors = 0, files = 0;
  double seconds = 0;
};

// `plan`: {"source": ..., "options": ...}, all that the result is a function of (convert_journal.h). Each file's tensors
// are let go once it is written. `finish` writes what stands beside them (index, config.json): last, when all files are
// there. Throws CheckpointError (the directory holds another checkpoint), FileError (too little disk, with the numbers),
// Error when stopped; is_stopped is asked from several threads.
ConvertReport write_converted(const std::filesystem::path& directory, Json plan,
                              std::vector<SavedFile>& files, const std::function<bool()>& is_stopped,
                              const std::function<void()>& finish);

}  // namespace fathom::checkpoint

// An HF checkpoint into another: dtype, file size, fewer layers or experts. Streams: anonymous memory stays under 4 MB a
// thread and some 2 kB a tensor, whatever the model (7 MB for 1,341 tensors on two threads).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "base/stop_signal.h"
#include "checkpoint/converted_files.h"
#include "checkpoint/model_cut.h"
#include "checkpoint/saved_tensor.h"

namespace fathom::checkpoint {

struct ConvertOptions {
  std::string dtype;         // bf16 | fp32 | fp16 | fp8; empty: as stored
  std::string scale_format;  // of fp8: float32 | ue8m0; empty: as the source, or float32
  uint64_t max_shard_bytes = kDefaultShardBytes;
  CutOptions cut;
  std::function<bool()> is_stopped = stop_requested;  // asked from several threads
};

// fp8 -> others: value = code * scale in float, rounded once to nearest even. Others -> fp8: the matrices that
// DeepSeek's fp8 covers (config::scale_shape), 128x128 blocks; the rest bf16. The router's correction bias is float32
// always. An MTP layer's embedding or head that the source lacks is written as the trunk's (a notice says so).
// Files appear whole; the index and config.json come last. The same call goes on after a stop, with the files that are
// missing. Throws UsageError (options; SRC is DST; a cut that makes no model); CheckpointError (DST holds another
// checkpoint; a tensor missing, unknown or of another shape, named); FileError (too little disk, with the numbers);
// Error when stopped.
ConvertReport convert_checkpoint(const std::filesystem::path& source_path,
                                 const std::filesystem::path& directory, const ConvertOptions& options);

}  // namespace fathom::checkpoint

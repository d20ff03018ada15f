// An HF checkpoint as one GGUF file that llama.cpp loads. Streams, as convert.h does.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "base/stop_signal.h"
#include "checkpoint/converted_files.h"
#include "checkpoint/model_cut.h"
#include "checkpoint/source_tensors.h"

namespace fathom::checkpoint {

struct GgufOptions {
  std::string dtype;  // fp32 | fp16 | bf16 | q8_0 | q4_0; empty: the source's (bf16 of fp8)
  SourceOptions source;
  CutOptions cut;
  std::function<bool()> is_stopped = stop_requested;  // asked from several threads
};

// Layout: kv_b_proj in two, a head's key half transposed; the experts of a layer stacked; rows of rotary parts as
// adjacent pairs. Precision, as llama.cpp: vectors, norms, router and its bias float32; with q4_0 the head q8_0; F16
// where 32 does not divide a row that was to be quantised (a notice says so). MTP layers are left out. The file appears
// whole; a stopped export leaves nothing and starts anew. Throws UsageError (dtype; `file` exists, or is a directory),
// ConfigError (gguf_metadata.h), CheckpointError (a tensor missing, of another shape, or not finite where it is
// quantised; named), FileError (too little disk, with the numbers), Error when stopped.
ConvertReport export_gguf(const std::filesystem::path& source, const std::filesystem::path& file,
                          const GgufOptions& options);

}  // namespace fathom::checkpoint

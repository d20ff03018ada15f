// The tensors of a checkpoint's train_state/: what a resumed run needs beyond the HF files to go on with the
// same bits.
//
//   train_state/rank_00000_00001.safetensors ...
//     master.<HF name>      fp32 masters, float32 (precision bf16); double values, float64 (fp64); absent
//     where the HF
//                           file holds the exact value (fp32, bf16_pure, correction bias)
//     exp_avg.<HF name>     AdamW's first moment, in its dtype (float32, bfloat16 or float64)
//     exp_avg_sq.<HF name>  second moment
//     metadata              slice.<HF name> = {"shape": [global], "offset": [of this slice]}; where the tensor is one
//     of several parts of the slice, it is flat, and "part": [shape of the slice], "begin": first element say which.
//
// A rank writes its share of its parameters (weights/element_range.h); all ranks' files together hold everything once,
// and any layout reads what any other wrote.
#pragma once

#include <filesystem>
#include <vector>

#include "checkpoint/saved_tensor.h"
#include "weights/parameter_registry.h"

namespace fathom::weights {

inline constexpr const char* kTrainStateFolder = "train_state";

// This rank's files, with names relative to the checkpoint directory. Moments are written where a parameter has them.
std::vector<checkpoint::SavedFile> plan_train_state(ParameterRegistry& registry, int rank = 0,
                                                    uint64_t max_file_bytes = checkpoint::kDefaultShardBytes);

struct LoadedState {
  bool has_masters = false;  // every master (where the precision has them) came from train_state
  bool has_moments = false;  // every moment of every parameter that has them defined came from train_state
};

// Fills values, low bits and the moments that are defined (make the optimizer first) from a checkpoint of
// this model: masters from train_state where they are there, else the HF files. Under the precision and state
// dtype that wrote it every bit is as it was; under others values are converted (from the exact master).
// Of low bits and moments it takes what this rank keeps. Streams from mapped files into place: no second copy of the
// state. Missing moments stay as they are. Throws CheckpointError naming file and tensor: missing tensor, other shape,
// a slice that cannot be.
LoadedState load_state(ParameterRegistry& registry, const std::filesystem::path& directory);

}  // namespace fathom::weights

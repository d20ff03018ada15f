// Reading the layouts of MindFormers: which one a directory holds is told by its tensors' names.
#pragma once

#include <filesystem>
#include <optional>

#include "checkpoint/source_tensors.h"

namespace fathom::checkpoint {

// nullopt: the directory holds no MindFormers checkpoint. Reads every variant of layout_rules.h, also the files of
// MindFormers' own converters where their maps forget a tensor or their router bias keeps its name of training. Optimizer
// state and counters of training are left out; int8 matrices are read as values of the embedding's dtype. Throws UsageError: no config.json beside it and none given;
// CheckpointError: ranks' slices that are not joined yet, .ckpt files, quantised weights but int8 ones
// (mindformers_w8a8.h), a tensor that is unknown,
// missing, of another shape or with another number of experts, named.
std::optional<SourceTensors> open_mindformers(const std::filesystem::path& path,
                                              const SourceOptions& options);

}  // namespace fathom::checkpoint

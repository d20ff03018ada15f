// An HF checkpoint directory into a registry: every parameter filled from its named tensors, or an error.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "formats/sharded_safetensors.h"
#include "weights/parameter_registry.h"

namespace fathom::weights {

// float32, bfloat16, float16, float64 tensors, and float8_e4m3 with a `<name>_scale_inv` of 128x128 blocks (float32, or
// e8m0 powers of two), dequantised as value * scale in float. Masters get the file's values exactly.
// A tensor that the config implies but no file holds, one of another shape, and one that the config does not know are
// CheckpointErrors naming it (WT-6, WT-7). MTP tensors of a model built without MTP are left out with one line; their
// copies of embedding and head are not read: the trunk's hold, with a notice where one is missing and a warning where
// one differs.
void load_weights(ParameterRegistry& registry, const std::filesystem::path& directory);

// What `registry` holds, which may be a part of the model only (a layer); other tensors are not looked at. `advance` is
// called with the stored bytes of each tensor that is read.
void load_parameters(ParameterRegistry& registry, const formats::ShardedReader& reader,
                     const std::filesystem::path& directory,
                     const std::function<void(uint64_t)>& advance = {});

}  // namespace fathom::weights

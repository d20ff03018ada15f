// A random checkpoint straight to disk, without a model in memory.
#pragma once

#include <cstdint>
#include <filesystem>

#include "config/model_config.h"
#include "formats/dtype.h"

namespace fathom::checkpoint {

// Writes an HF checkpoint of `model` with the values of ParameterRegistry::initialize(seed), tensor by
// tensor: memory is bounded by one chunk whatever the model's size. `dtype` is F32, or BF16, rounded as
// training at precision bf16 rounds (to nearest, halves away from zero); the correction bias is float32.
// config.json comes last. Returns the bytes of the tensors. Throws UsageError: another dtype;
// CheckpointError: the directory holds a checkpoint; FileError: too little disk, with the numbers.
uint64_t init_checkpoint(const config::ModelConfig& model, formats::Dtype dtype, uint64_t seed,
                         const std::filesystem::path& directory, const std::filesystem::path& tokenizer = {});

}  // namespace fathom::checkpoint

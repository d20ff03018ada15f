// A random checkpoint straight to disk, without a model in memory.
#pragma once

#include <cstdint>
#include <filesystem>

#include "checkpoint/fp8_blocks.h"
#include "config/model_config.h"
#include "formats/dtype.h"

namespace fathom::checkpoint {

// Writes an HF checkpoint of `model` with the values of ParameterRegistry::initialize(seed), tensor by tensor: memory is
// bounded by one chunk a thread whatever the model's size. `dtype`: F32 as drawn; F16, to nearest even; BF16, rounded as
// training at precision bf16 rounds (to nearest, halves away from zero); F8_E4M3, the blocks of those BF16 values where
// DeepSeek's fp8 has them, BF16 elsewhere, with a quantization_config. The correction bias is float32. config.json comes
// last; the same call goes on after a stop. Returns the bytes of the tensors. Throws UsageError: another dtype;
// CheckpointError: the directory holds a checkpoint; FileError: too little disk, with the numbers.
uint64_t init_checkpoint(const config::ModelConfig& model, formats::Dtype dtype, uint64_t seed,
                         const std::filesystem::path& directory, const std::filesystem::path& tokenizer = {},
                         ScaleFormat scale_format = ScaleFormat::float32);

}  // namespace fathom::checkpoint

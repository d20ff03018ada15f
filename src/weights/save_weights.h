// The Hugging Face part of a checkpoint directory: config.json, generation_config.json, tokenizer files,
// model*.safetensors and their index. Loadable by `fathom`, HF transformers, vLLM, ... as it stands.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/saved_tensor.h"
#include "weights/parameter_registry.h"

namespace fathom::weights {

// What the files hold under a precision: the values that a forward pass uses. fp32 and fp64 write float32
// (fp64, a proof's precision, is rounded here; its exact values lie in train_state), bf16 and bf16_pure
// bfloat16; the correction bias is float32 always. Throws ConfigError under fp8, which is not written yet.
formats::Dtype saved_dtype(config::Precision precision);

// Elements [begin, begin + count) of a contiguous one-dimensional tensor on any device, converted to `dtype`.
void read_elements(const at::Tensor& flat, int64_t begin, int64_t count, formats::Dtype dtype,
                   std::byte* out);

// What the file of a tensor holds: saved_dtype, but float32 of the correction bias.
formats::Dtype saved_dtype(const config::TensorSpec& spec, const ParameterRegistry& registry);

// The HF name of the values of each tied copy, by the copy's name.
std::map<std::string, std::string> tied_sources(const ParameterRegistry& registry);

// The tensor `spec` with the values of `piece`, all of it (a tied copy has those of its source).
checkpoint::SavedTensor whole_tensor(const config::TensorSpec& spec, const Parameter& parameter,
                                     const Piece& piece, const ParameterRegistry& registry);

// Every tensor of the table under its HF name, in the table's order, tied copies included. The registry must
// outlive the result.
std::vector<checkpoint::SavedTensor> weight_tensors(ParameterRegistry& registry);

// All of it, tensor by tensor: peak extra memory is one chunk. `directory` is made; each file appears
// complete or not at all, the index last.
void save_weights(ParameterRegistry& registry, const std::filesystem::path& directory,
                  const std::filesystem::path& tokenizer = {},
                  uint64_t max_shard_bytes = checkpoint::kDefaultShardBytes);

}  // namespace fathom::weights

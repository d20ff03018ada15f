// quantization_config of a config.json: what the matrices of a checkpoint are stored as. DeepSeek's fp8 blocks, and
// symmetric integers in the layouts of compressed-tensors ("int-quantized", "pack-quantized").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"

namespace fathom::config {

// Weights as integers: value = code * scale.
struct IntWeights {
  int bits = 8;             // 8 | 4
  int64_t group_size = -1;  // columns of a row that share a scale, and divide the row; -1: the whole row
  bool is_packed = false;   // 4 bits: eight codes in an I32; else an I8 each
  bool has_int8_inputs =
      false;  // the matrix's inputs are int8 too, symmetric, a scale a token made as they come
  bool operator==(const IntWeights&) const = default;
};

inline const IntWeights kW8A8{8, -1, false, true};
IntWeights int4_weights(int64_t group_size);

struct QuantizationGroup {
  std::vector<std::string>
      targets;  // "Linear", a module's name, or "re:" and a pattern that matches its beginning
  IntWeights weights;
};

struct QuantizationConfig {
  std::string quant_method;  // "fp8" | "compressed-tensors"; others are kept, and refused on use
  std::vector<int64_t> weight_block_size;  // [128, 128] for DeepSeek's fp8
  std::string scale_fmt;                   // "" or "ue8m0"
  std::vector<QuantizationGroup> groups;   // of compressed-tensors
  std::vector<std::string> ignore;         // modules that no group takes, written as targets are
  Json raw;
};

// `where` names the source and the key path in messages. Throws ConfigError naming what is not supported: formats and
// types other than these, asymmetric weights, static activations, activation order with g_idx.
QuantizationConfig parse_quantization(const Json& object, const std::string& where);

// What int_weights of a module ("model.layers.3.mlp.down_proj") is; nullptr: not quantised. `is_linear`: an nn.Linear,
// which the target "Linear" takes. A name or pattern goes before "Linear".
const IntWeights* int_weights(const QuantizationConfig& config, const std::string& module, bool is_linear);

// A compressed-tensors config that says the same, with `raw` as vLLM and transformers read it.
QuantizationConfig compressed_tensors_config(std::vector<QuantizationGroup> groups,
                                             std::vector<std::string> ignore);

}  // namespace fathom::config

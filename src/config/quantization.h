// quantization_config of a config.json: what the matrices of a checkpoint are stored as. DeepSeek's fp8 blocks, and
// symmetric integers in the layouts of compressed-tensors ("int-quantized", "pack-quantized").
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"

namespace fathom::config {

// Weights as integers: value = code * scale.
struct IntWeights {
  int bits = 8;                  // 8 | 4
  int64_t group_size = -1;       // columns of a row that share a scale, and divide the row; -1: the whole row
  bool is_packed = false;        // 4 bits: eight codes in an I32; else an I8 each
  bool has_int8_inputs = false;  // the inputs are int8 too, symmetric, a scale a token made as they come
  bool operator==(const IntWeights&) const = default;
};

inline constexpr IntWeights kW8A8{8, -1, false, true};
constexpr IntWeights int4_weights(int64_t group_size) { return {4, group_size, true, false}; }

// Modules as compressed-tensors names them in `targets` and `ignore`: "Linear", a module's name, or "re:" and a regular
// expression that a module's name begins with.
class ModulePattern {
 public:
  explicit ModulePattern(std::string text);  // throws ConfigError: no regular expression
  const std::string& text() const { return text_; }
  bool is_class() const { return text_ == "Linear"; }
  bool matches(const std::string& module) const;  // by name: a class matches none
  bool operator==(const ModulePattern& other) const { return text_ == other.text_; }

 private:
  enum class Kind { name, contains, ends_with, expression };
  std::string text_, literal_;
  Kind kind_ = Kind::name;
  struct Expression;
  std::shared_ptr<const Expression> expression_;
};

struct QuantizationGroup {
  std::vector<ModulePattern> targets;
  IntWeights weights;
};

struct QuantizationConfig {
  std::string quant_method;                // "fp8", "compressed-tensors", ...
  std::vector<int64_t> weight_block_size;  // [128, 128] for DeepSeek's fp8
  std::string scale_fmt;                   // "" or "ue8m0"
  std::vector<QuantizationGroup> groups;   // of compressed-tensors
  std::vector<ModulePattern> ignore;       // modules that no group takes
  // What of it is not read here, in words ("the format nvfp4-pack-quantized"); empty: all is. `groups` may then lack some.
  std::string unsupported;
  Json raw;
};

// `where` names the source and the key path in messages. Throws ConfigError: a value of the wrong type, blocks that are
// none. A scheme that is well-formed and not read here is said in `unsupported`.
QuantizationConfig parse_quantization(const Json& object, const std::string& where);

// How the module ("model.layers.3.mlp.down_proj") is stored; nullptr: not as integers. `is_linear`: it is an nn.Linear,
// which the target "Linear" takes. A name or expression goes before "Linear".
const IntWeights* int_weights(const QuantizationConfig& config, const std::string& module, bool is_linear);

// DeepSeek's fp8: blocks of 128x128. scale_fmt "" or "ue8m0".
QuantizationConfig fp8_config(const std::string& scale_fmt);

// A compressed-tensors config that says the same, with `raw` as vLLM and transformers read it.
QuantizationConfig compressed_tensors_config(std::vector<QuantizationGroup> groups,
                                             std::vector<ModulePattern> ignore);

}  // namespace fathom::config

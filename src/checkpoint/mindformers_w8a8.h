// MindFormers' w8a8: int8 matrices in the layout of its inference (layout_rules.h), under the names that Golden Stick
// gives them. X.weight of the layout becomes
//   W8A8, static inputs (attention):  X._layer.weight I8 [out, in]; X._layer.matmul.dequant_scale F32 [out] and
//     .quant_bias I32 [out]; X.quant_op.input_scale BF16 [1], .input_zp I8 [1] and .beta BF16 [in]:
//     y = dequant_scale * (codes round((x + beta) / input_scale + input_zp) + quant_bias)
//   W8A8_DYNAMIC (dense layers, experts):  X._layer.weight I8 [out, in] and X._layer.matmul.weight_scale F32 [out];
//     of routed experts [experts, in, out] and [experts, out]
// kv_b_proj, embedding, head, norms, router and the MTP layers stay as they are: FLOAT.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/layout_rules.h"
#include "checkpoint/quantized_ints.h"
#include "checkpoint/static_activation.h"

namespace fathom::checkpoint {

inline constexpr const char* kW8A8Scheme = "mindformers-w8a8";
inline constexpr const char* kW8A8DescriptionName = "quantization_description.json";

// Of the recipe: predict_deepseek3_671b_w8a8.yaml with its layer policies.
bool is_w8a8_matrix(const config::ModelConfig& model, const config::TensorSpec& spec);

// A matrix on its way there.
struct W8A8Matrix {
  TensorView values;  // of the HF tensor
  IntFormat format;
  std::shared_ptr<WeightError> error;  // may be null
};
// What a rule's matrices become, rounded to nearest. `inputs`: of static ones, nullptr: dynamic. `types` gets what each
// parameter is, as quantization_description.json has it.
std::vector<SavedTensor> w8a8_tensors(const LayoutRule& rule, std::vector<W8A8Matrix> matrices,
                                      const StaticActivation* inputs, Json& types);

// Reading. The int8 tensor that stands for the layout's tensor `name`, under Golden Stick's name or the one that
// MindFormers' loader turns it into ("X.weight"); nullptr: not there, or no int8.
const formats::ShardedReader::Location* find_w8a8(const formats::ShardedReader& reader,
                                                  const std::string& name);
// Its values, which are code * scale: dequant_scale / input_scale where the inputs are static. Throws CheckpointError:
// no scales, or of another number.
TensorView w8a8_view(std::shared_ptr<const formats::ShardedReader> reader, const LayoutRule& rule,
                     const LayoutTensor& tensor, formats::Dtype dtype);
// All names that a quantised "X.weight" and what stands beside it may have.
std::vector<std::string> w8a8_names(const std::string& name);

}  // namespace fathom::checkpoint

// An HF checkpoint into a quantised one: int8 (W8A8) or int4 as compressed-tensors writes them, DeepSeek's fp8 blocks,
// or MindFormers' w8a8 in the layout of its inference. Streams and resumes as conversions do (converted_files.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/stop_signal.h"
#include "checkpoint/converted_files.h"
#include "checkpoint/quantized_ints.h"
#include "checkpoint/saved_tensor.h"
#include "checkpoint/static_activation.h"
#include "config/tensor_table.h"

namespace fathom::checkpoint {

struct QuantizeOptions {
  std::string scheme = "w8a8";                    // w8a8 | int4 | fp8 | mindformers-w8a8 (mindformers_w8a8.h)
  int64_t group_size = 128;                       // of int4: 128, 64 or 32 columns, or -1: the whole row
  std::string lm_head = "keep";                   // keep | int8 | int4
  std::string scale_format;                       // of fp8: float32 | ue8m0; empty: as the source, or float32
  uint64_t max_shard_bytes = kDefaultShardBytes;  // not of mindformers-w8a8: a file a layer
  bool has_fused_qkv = false, has_fused_ffn = false;  // of mindformers-w8a8, as LayoutOptions has them
  std::function<bool()> is_stopped = stop_requested;  // asked from several threads

  // What calibration puts in. Both must be functions of the source and of `calibration` alone.
  std::function<TensorView(TensorView)>
      transform;        // of every tensor of the source, by its HF name; shape kept
  EncodeMatrix encode;  // of the matrices that become integers (quantized_ints.h); not of mindformers-w8a8
  // Of mindformers-w8a8, which needs it: how attention's matrices read their inputs, by HF name.
  std::function<StaticActivation(const std::string& name)> static_inputs;
  Json calibration;  // what a stopped run must have in common with the one that goes on
};

// What a tensor of `model` becomes; nullopt: it stays as it is. The embedding, the norms, the router with its correction bias,
// kv_b_proj, eh_proj and the MTP layers' copies of embedding and head stay under the integer schemes, and the head
// unless `lm_head` says otherwise; under mindformers-w8a8 all of the MTP layers. Throws UsageError naming the tensor: its columns are no multiple of the group size.
std::optional<IntFormat> int_format(const config::ModelConfig& model, const config::TensorSpec& spec,
                                    formats::Dtype source_dtype, const QuantizeOptions& options);

struct QuantizedTensor {
  std::string name;  // of the matrix
  int64_t layer = -1;
  std::string format;  // int8 | int4 | fp8
  ErrorSums error;     // elements 0: an earlier run has written it
};

struct QuantizeReport {
  ConvertReport written;
  std::vector<QuantizedTensor> tensors;  // those that were quantised, in the table's order
  uint64_t source_bytes = 0;             // of the tensors as they are stored in the source
};

// The source may be bf16, fp16, fp32, or fp8 as published, which is dequantised block by block on the way
// (to bf16: the integers are those of a bf16 copy). A tensor that
// stays keeps its bits (an fp8 one becomes bf16). Throws as convert_checkpoint does; CheckpointError: a value that is
// not finite, named.
QuantizeReport quantize_checkpoint(const std::filesystem::path& source_path,
                                   const std::filesystem::path& directory, const QuantizeOptions& options);

}  // namespace fathom::checkpoint

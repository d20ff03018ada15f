// Weights used where they lie: linear layers in the format of the mapped checkpoint, nothing loaded or repacked.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "config/tensor_table.h"
#include "formats/sharded_safetensors.h"
#include "kernels/gemm.h"

namespace fathom::infer {

// The tensors of one checkpoint as layers ask for them, held against the shapes that its config implies.
class StoredWeights {
 public:
  // `compute`: at::kBFloat16 or at::kFloat, what activations are in.
  StoredWeights(config::ModelConfig model, std::shared_ptr<const formats::ShardedReader> reader,
                at::ScalarType compute);

  const config::ModelConfig& model() const { return model_; }
  at::ScalarType compute() const { return compute_; }
  const formats::ShardedReader& reader() const { return *reader_; }
  const config::TensorSpec* find_spec(const std::string& name) const { return table_.find(name); }
  // Throws CheckpointError naming file and tensor: not there, or of another shape.
  const formats::ShardedReader::Location& at(const std::string& name) const;
  // The values, for what is small (norms, correction bias): a copy in `dtype`.
  at::Tensor copy(const std::string& name, at::ScalarType dtype) const;

 private:
  config::ModelConfig model_;
  config::TensorTable table_;
  std::shared_ptr<const formats::ShardedReader> reader_;
  at::ScalarType compute_;
};

// y = x W^T. W stays in the file where it is stored in the dtype of computation, or as fp8 blocks under bf16: code * scale
// in float, rounded to bf16, which a thread does for a panel of columns at a time while it multiplies. Any other stored
// dtype (float32 under bf16, fp8 under float32) is a converted copy in memory. The bits of a row do not depend on the other
// rows (kernels/gemm.h). Views into the checkpoint: `weights` must outlive this.
class StoredLinear {
 public:
  StoredLinear(const StoredWeights& weights, const std::string& name);  // throws CheckpointError
  StoredLinear(StoredLinear&&) noexcept = default;
  StoredLinear(const StoredLinear&) = delete;  // matrix_ points into scale_values_
  StoredLinear& operator=(const StoredLinear&) = delete;
  int64_t in_features() const { return in_; }
  int64_t out_features() const { return out_; }
  uint64_t copied_bytes() const { return copy_.defined() ? copy_.nbytes() : 0; }

  at::Tensor operator()(const at::Tensor& x) const;  // x [T, in] of the compute dtype -> [T, out]
  // Into y [T, out], whose rows may be strided, of the compute dtype or float (sums are rounded once, to y's dtype).
  void apply(const at::Tensor& x, const at::Tensor& y) const;
  // Rows of x [S, in] sorted by layer: rows [offsets[e], offsets[e + 1]) through layers[e], all of one shape; one without rows
  // is not touched.
  static void apply_grouped(const std::vector<StoredLinear>& layers, const std::vector<int64_t>& offsets,
                            const at::Tensor& x, const at::Tensor& y);

 private:
  at::Tensor dense() const;  // [out, in] in the compute dtype, for the composition of ATen operations
  const formats::ShardedReader::Location* stored_;
  const formats::ShardedReader::Location* scales_ = nullptr;
  at::ScalarType compute_;
  int64_t out_, in_;
  at::Tensor copy_;
  std::vector<float> scale_values_;
  kernels::StoredMatrix matrix_;
};

}  // namespace fathom::infer

#include "infer/stored_linear.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <fmt/ranges.h>

#include <utility>

#include "base/error.h"
#include "checkpoint/fp8_blocks.h"
#include "checkpoint/tensor_view.h"
#include "ops/kernel_args.h"
#include "ops/runtime.h"

namespace fathom::infer {
namespace {

using formats::Dtype;
using formats::ShardedReader;

Dtype stored_as(at::ScalarType type) { return type == at::kFloat ? Dtype::F32 : Dtype::BF16; }

bool is_aligned(const ShardedReader::Location& location) {
  const auto size = static_cast<uintptr_t>(formats::dtype_bits(location.entry->dtype) / 8);
  return reinterpret_cast<uintptr_t>(location.bytes().data()) % size == 0;
}

at::Tensor converted(const ShardedReader& reader, const formats::TensorEntry& entry, at::ScalarType dtype) {
  at::Tensor values = at::empty(entry.shape, at::TensorOptions().dtype(dtype));
  // The reader outlives the view.
  const std::shared_ptr<const ShardedReader> unowned(std::shared_ptr<const ShardedReader>(), &reader);
  checkpoint::stored_view(unowned, entry.name)
      .read(0, values.numel(), stored_as(dtype), static_cast<std::byte*>(values.mutable_data_ptr()));
  return values;
}

}  // namespace

StoredWeights::StoredWeights(config::ModelConfig model, std::shared_ptr<const ShardedReader> reader,
                             at::ScalarType compute)
    : model_(std::move(model)), table_(model_), reader_(std::move(reader)), compute_(compute) {
  FATHOM_ASSERT(compute == at::kFloat || compute == at::kBFloat16);
}

const ShardedReader::Location& StoredWeights::at(const std::string& name) const {
  const ShardedReader::Location& location = reader_->at(name);
  const std::vector<int64_t>& shape = table_.at(name).shape;
  if (location.entry->shape != shape)
    throw CheckpointError("{}: tensor {} has shape [{}], config.json implies [{}]",
                          location.file->path().string(), name, fmt::join(location.entry->shape, ", "),
                          fmt::join(shape, ", "));
  return location;
}

at::Tensor StoredWeights::copy(const std::string& name, at::ScalarType dtype) const {
  return converted(*reader_, *at(name).entry, dtype);
}

StoredLinear::StoredLinear(const StoredWeights& weights, const std::string& name)
    : stored_(&weights.at(name)),
      compute_(weights.compute()),
      out_(stored_->entry->shape[0]),
      in_(stored_->entry->shape[1]) {
  matrix_.ld = in_;
  matrix_.values = stored_->bytes().data();
  const Dtype dtype = stored_->entry->dtype;
  if (dtype == Dtype::F8_E4M3 && compute_ == at::kBFloat16) {
    scales_ = &checkpoint::fp8_scales(weights.reader(), *stored_);
    scale_values_ = checkpoint::scale_values(*scales_);
    matrix_.scales = scale_values_.data();
    matrix_.scale_stride = scales_->entry->shape[1];
  } else if (dtype != stored_as(compute_) || !is_aligned(*stored_)) {
    copy_ = converted(weights.reader(), *stored_->entry, compute_);
    matrix_.values = copy_.const_data_ptr();
  }
}

at::Tensor StoredLinear::operator()(const at::Tensor& x) const {
  at::Tensor y = at::empty({x.size(0), out_}, x.options());
  apply(x, y);
  return y;
}

void StoredLinear::apply(const at::Tensor& x, const at::Tensor& y) const {
  FATHOM_ASSERT(x.scalar_type() == compute_ && x.size(1) == in_ && y.size(1) == out_ &&
                y.size(0) == x.size(0));
  if (!ops::use_kernels(x)) {
    const at::ScalarType wide = y.scalar_type();
    y.copy_(at::mm(x.to(wide), dense().to(wide).t()));
    return;
  }
  const at::Tensor rows = x.stride(1) == 1 ? x : x.contiguous();
  const int64_t offsets[2] = {0, x.size(0)};
  kernels::StoredGemmParams params;
  params.dtype = ops::kernel_dtype(rows);
  params.out_dtype = ops::kernel_dtype(y);
  params.num_groups = 1;
  params.offsets = offsets;
  params.n = out_;
  params.k = in_;
  params.a = rows.const_data_ptr();
  params.lda = rows.stride(0);
  params.w = &matrix_;
  params.c = y.mutable_data_ptr();
  params.ldc = y.stride(0);
  kernels::stored_gemm_nt(params);
}

void StoredLinear::apply_grouped(const std::vector<StoredLinear>& layers, const std::vector<int64_t>& offsets,
                                 const at::Tensor& x, const at::Tensor& y) {
  if (layers.empty() || x.size(0) == 0) return;
  if (!ops::use_kernels(x)) {
    for (size_t e = 0; e < layers.size(); ++e) {
      const int64_t count = offsets[e + 1] - offsets[e];
      if (count > 0) layers[e].apply(x.narrow(0, offsets[e], count), y.narrow(0, offsets[e], count));
    }
    return;
  }
  std::vector<kernels::StoredMatrix> matrices;
  for (const StoredLinear& layer : layers) {
    FATHOM_ASSERT(layer.in_ == layers[0].in_ && layer.out_ == layers[0].out_);
    matrices.push_back(layer.matrix_);
  }
  kernels::StoredGemmParams params;
  params.dtype = ops::kernel_dtype(x);
  params.out_dtype = ops::kernel_dtype(y);
  params.num_groups = static_cast<int64_t>(layers.size());
  params.offsets = offsets.data();
  params.n = layers[0].out_;
  params.k = layers[0].in_;
  params.a = x.const_data_ptr();
  params.lda = x.stride(0);
  params.w = matrices.data();
  params.c = y.mutable_data_ptr();
  params.ldc = y.stride(0);
  kernels::stored_gemm_nt(params);
}

at::Tensor StoredLinear::dense() const {
  if (copy_.defined()) return copy_;
  if (!scales_)
    return at::from_blob(const_cast<void*>(matrix_.values), {out_, in_}, at::TensorOptions().dtype(compute_));
  at::Tensor values = at::empty({out_, in_}, at::TensorOptions().dtype(at::kBFloat16));
  checkpoint::dequantize_blocks(*stored_, *scales_, 0, values.numel(),
                                static_cast<bf16*>(values.mutable_data_ptr()));
  return values;
}

}  // namespace fathom::infer

// Small helpers of the tests that hold ATen tensors.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/random.h"
#include "kernels/isa.h"
#include "ops/weight.h"

namespace fathom::test {

// Normal values from (name): float, converted to `dtype`.
inline at::Tensor normal(std::vector<int64_t> shape, const std::string& name, float std = 1,
                         at::ScalarType dtype = at::kFloat) {
  const at::Tensor values = at::empty(shape, at::TensorOptions().dtype(at::kFloat));
  fill_normal(stream_key(1, name), 0, values.numel(), 0, std, values.mutable_data_ptr<float>());
  return values.to(dtype);
}

inline ops::Weight trained_weight(at::Tensor value, at::ScalarType grad_dtype = at::kFloat) {
  ops::Weight weight;
  weight.label = "weight";
  weight.value = std::move(value);
  weight.main_grad = at::empty(weight.value.sizes(), weight.value.options().dtype(grad_dtype));
  weight.main_grad.fill_(123);  // must be overwritten: it is marked empty
  return weight;
}

// |actual - expected| / |expected|, both as one vector in double.
inline double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor wide = expected.to(at::kDouble);
  return (actual.to(at::kDouble).view_as(wide) - wide).norm().item<double>() /
         std::max(wide.norm().item<double>(), 1e-30);
}

inline double largest(const at::Tensor& t) { return t.numel() == 0 ? 0 : t.abs().max().item<double>(); }

// The bodies that this machine has, each to be forced in turn.
inline std::vector<kernels::Isa> bodies() {
  std::vector<kernels::Isa> found;
  for (const kernels::Isa isa :
       {kernels::Isa::aten, kernels::Isa::reference, kernels::Isa::avx2, kernels::Isa::avx512})
    if (kernels::is_supported(isa)) found.push_back(isa);
  return found;
}

class ForcedIsa {
 public:
  explicit ForcedIsa(kernels::Isa isa) : before_(kernels::isa()) { kernels::force_isa(isa); }
  ForcedIsa(const ForcedIsa&) = delete;
  ForcedIsa& operator=(const ForcedIsa&) = delete;
  ~ForcedIsa() { kernels::force_isa(before_); }

 private:
  kernels::Isa before_;
};

}  // namespace fathom::test

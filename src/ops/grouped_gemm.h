// Grouped matrix products: rows sorted by group, one matrix a group. An empty group costs nothing.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "ops/weight.h"

namespace fathom::ops {

// Operands need dense columns; rows may be strided. The kernels' bits of a row do not depend on the other rows.
// rows [S, in], w [E, out, in] -> [S, out]: rows of group e times w[e]^T. offsets [E + 1].
at::Tensor grouped_mm_nt(const at::Tensor& rows, const at::Tensor& w, const std::vector<int64_t>& offsets);

// rows [S, out], w [E, out, in] -> [S, in]: rows of group e times w[e].
at::Tensor grouped_mm_nn(const at::Tensor& rows, const at::Tensor& w, const std::vector<int64_t>& offsets);

// main_grad [E, out, in] (+)= d_rows_e^T rows_e for each group; `overwrite` replaces (empty groups become zero).
void grouped_mm_tn_accumulate(const at::Tensor& d_rows, const at::Tensor& rows,
                              const std::vector<int64_t>& offsets, at::Tensor& main_grad, bool overwrite);

// The gradient of y = x W^T: weight's main_grad [out, in] (+)= dy^T x, with dy [T, out] and x [T, in].
void add_product_grad(Weight& weight, const at::Tensor& dy, const at::Tensor& x);

}  // namespace fathom::ops

// The scales of Outlier Suppression+ (Wei et al. 2023, arXiv 2304.09145, section 4.2): of the shifted inputs of a norm's
// readers, only channels that reach beyond a threshold t are divided, s_j = max(1, max|x'_j| / t), and the matrices'
// columns multiplied; t is searched. The shift itself is checkpoint/static_activation.h's.
//
// The paper runs the quantised product for every t. Here its loss is what rounding to a uniform grid loses on average,
// steps^2 / 12 an element, from the inputs' ranges and squares: no second pass. As in smoothquant.h, scales are powers of two, so
// that folding them into the norm is exact.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "quantize/input_statistics.h"

namespace fathom::quantize {

// `readers`: [out, in], those that are quantised, all with these inputs. float [in], all >= 1.
at::Tensor outlier_suppression_scales(const ChannelRanges& inputs, const std::vector<at::Tensor>& readers);

}  // namespace fathom::quantize

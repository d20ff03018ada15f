// Activation recomputation as an autograd function (C++ LibTorch has none): run `fn` without keeping its graph, run it
// again in backward. Weights' gradients go to their sinks during that second run's backward.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace fathom::ops {

using TensorList = std::vector<at::Tensor>;
using RecomputedFunction = std::function<TensorList(const TensorList&)>;

// `inputs` and the outputs are tensors that may carry gradient (an input without one is passed through as it is).
// fn must be deterministic and capture no tensor that requires a gradient.
TensorList recompute(const RecomputedFunction& fn, const TensorList& inputs);

// True inside the second run: counters (expert loads, metrics) must not count again.
bool is_recomputing();

}  // namespace fathom::ops

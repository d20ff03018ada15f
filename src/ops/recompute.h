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

// For an output y that operations between it and `after` keep for their backward: frees y's memory now, and when the
// gradient of `after` arrives, computes y again into the same tensor, before any of those operations needs it. No use of
// y may follow this call in the forward pass; y owns its memory alone. `compute` gives y's values again and captures
// detached tensors only. Does nothing where no graph is built,
// nor inside a second run, whose graph lives for a moment only.
void release_until_backward(const at::Tensor& y, const at::Tensor& after,
                            std::function<at::Tensor()> compute);

// True inside the second run: counters (expert loads, metrics) must not count again.
bool is_recomputing();

}  // namespace fathom::ops

#include "quantize/outlier_suppression.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/exp2.h>
#include <ATen/ops/log2.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/square.h>

#include <cmath>

namespace fathom::quantize {
namespace {

constexpr int kThresholds = 21;  // a factor of sqrt(2) apart: the last is a thousandth of the largest input

}  // namespace

at::Tensor outlier_suppression_scales(const ChannelRanges& inputs, const std::vector<at::Tensor>& readers) {
  const at::Tensor low = inputs.minimum.to(at::kDouble), high = inputs.maximum.to(at::kDouble);
  const at::Tensor reach = (high - low) / 2;  // of the shifted inputs
  // Of the inputs as they are: the shift is taken out of the product again, with the rounded weights.
  const at::Tensor moment = inputs.square_sum / static_cast<double>(inputs.rows);
  const at::Tensor weight = at::cat(readers, 0).to(at::kFloat).abs();
  const at::Tensor column_squares = at::square(weight).sum(0, false, at::kDouble);
  const double largest = reach.max().item<double>();
  at::Tensor best = at::ones_like(reach);
  if (!(largest > 0)) return best.to(at::kFloat);
  double best_loss = INFINITY;
  for (int i = 0; i < kThresholds; ++i) {
    const double threshold = largest * std::exp2(-0.5 * i);
    const at::Tensor scales = at::exp2(at::log2(at::clamp_min(reach / threshold, 1)).round());
    const double input_step = (reach / scales).max().item<double>() / 127;
    const at::Tensor row_steps = at::amax(weight * scales.to(at::kFloat), {1}).to(at::kDouble) / 127;
    const double of_inputs =
        input_step * input_step * (column_squares * scales * scales).sum().item<double>();
    const double of_weights =
        at::square(row_steps).sum().item<double>() * (moment / (scales * scales)).sum().item<double>();
    if (const double loss = of_inputs + of_weights; loss < best_loss) {
      best_loss = loss;
      best = scales;
    }
  }
  return best.to(at::kFloat);
}

}  // namespace fathom::quantize

#include "train/fault_finder.h"

#include <fmt/format.h>

#include <ATen/ops/isfinite.h>

#include <cstdint>
#include <span>

namespace fathom::train {
namespace {

constexpr int64_t kNone = INT64_MAX;

// The first piece with a value that is not finite in `values`, which are elements `range` of the parameter; kNone if
// there is no such.
int64_t first_bad_piece(const weights::Parameter& p, const at::Tensor& values, weights::ElementRange range) {
  const at::Tensor flat = values.view({-1});
  for (size_t i = 0; i < p.pieces.size(); ++i) {
    const weights::ElementRange part = intersection(p.pieces[i].range(), range);
    if (!part.empty() &&
        !at::isfinite(flat.narrow(0, part.begin - range.begin, part.count())).all().item<bool>())
      return static_cast<int64_t>(i);
  }
  return kNone;
}

}  // namespace

std::string describe_nonfinite(const weights::ParameterRegistry& registry, parallel::Communicator& ranks) {
  const auto& parameters = registry.parameters();
  const auto name = [&](int64_t place) {
    return parameters[static_cast<size_t>(place >> 32)]
        .pieces[static_cast<size_t>(place & 0xffffffff)]
        .spec->name;
  };
  const auto first = [&](const auto& bad_piece) {
    int64_t place = kNone;
    for (size_t i = 0; i < parameters.size() && place == kNone; ++i)
      if (const int64_t piece = bad_piece(parameters[i]); piece != kNone)
        place = (static_cast<int64_t>(i) << 32) + piece;
    ranks.all_reduce(std::span(&place, 1), parallel::Reduce::min);
    return place;
  };
  const int64_t weight = first([](const weights::Parameter& p) {
    return first_bad_piece(p, p.value, {0, p.numel()});
  });
  if (weight != kNone) return fmt::format("weight {} holds a value that is not finite", name(weight));
  const int64_t gradient = first([](const weights::Parameter& p) {
    return !p.is_trained() || (p.replica.size == 1 && p.main_grad_empty)
               ? kNone
               : first_bad_piece(p, p.grad_share, p.share);
  });
  if (gradient != kNone) return fmt::format("first in the gradient of {}", name(gradient));
  return "no weight or gradient is; the loss itself overflowed";
}

}  // namespace fathom::train

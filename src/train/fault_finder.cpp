#include "train/fault_finder.h"

#include <fmt/format.h>

#include <ATen/ops/isfinite.h>

namespace fathom::train {
namespace {

// The first piece of `whole` with a value that is not finite; null if none.
const weights::Piece* first_bad_piece(const weights::Parameter& p, const at::Tensor& whole) {
  for (const weights::Piece& piece : p.pieces)
    if (!at::isfinite(p.piece_of(whole, piece)).all().item<bool>()) return &piece;
  return nullptr;
}

}  // namespace

std::string describe_nonfinite(const weights::ParameterRegistry& registry) {
  for (const weights::Parameter& p : registry.parameters())
    if (const weights::Piece* bad = first_bad_piece(p, p.value))
      return fmt::format("weight {} holds a value that is not finite", bad->spec->name);
  for (const weights::Parameter& p : registry.parameters()) {
    if (!p.is_trained() || p.main_grad_empty) continue;
    if (const weights::Piece* bad = first_bad_piece(p, p.main_grad))
      return fmt::format("first in the gradient of {}", bad->spec->name);
  }
  return "no weight or gradient is; the loss itself overflowed";
}

}  // namespace fathom::train

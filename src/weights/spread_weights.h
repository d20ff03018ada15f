// The HF files of a model whose tensors lie on several ranks: who writes which, and how the parts of a tensor that tensor
// ranks share come together, one tensor at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/saved_tensor.h"
#include "weights/parameter_registry.h"

namespace fathom::weights {

// Bytes of all tensors of the model's HF files, wherever they lie.
uint64_t weight_bytes(const ParameterRegistry& registry);

// This rank holds less than the whole model. The same answer on every rank of a run.
bool is_spread(const ParameterRegistry& registry);

struct SpreadWeights {
  // Whole tensors that this rank writes; of several ranks that hold one, each has its turn.
  std::vector<checkpoint::SavedTensor> whole;
  // Cut tensors that its tensor ranks bring together, in an order that is the same for them; `writer` is the place among
  // them that writes it.
  struct Cut {
    formats::TensorDeclaration declaration;
    const Parameter* parameter;
    const Piece* piece;
    int64_t writer;
  };
  std::vector<Cut> cut;
};
SpreadWeights spread_weights(ParameterRegistry& registry, int64_t tensor_ranks);

// How tensor ranks exchange bytes. `place`, `size`: of this rank among them.
struct TensorExchange {
  int64_t place = 0, size = 1;
  std::function<void(std::span<std::byte> bytes, int64_t to)> send;
  std::function<void(std::span<std::byte> bytes, int64_t from)> receive;
};
// Called by all tensor ranks for the same tensor: its writer gets the tensor's bytes, the others nothing.
std::vector<std::byte> bring_together(const SpreadWeights::Cut& tensor, const TensorExchange& ranks);

}  // namespace fathom::weights

#include "weights/spread_weights.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "base/error.h"
#include "weights/save_weights.h"

namespace fathom::weights {
namespace {

size_t size_of(formats::Dtype dtype) { return static_cast<size_t>(formats::dtype_bits(dtype) / 8); }

std::vector<std::byte> bytes_of(const SpreadWeights::Cut& tensor) {
  const int64_t count = tensor.piece->numel();
  std::vector<std::byte> bytes(static_cast<size_t>(count) * size_of(tensor.declaration.dtype));
  if (count > 0)
    read_elements(tensor.parameter->piece_of(tensor.parameter->value, *tensor.piece).view({-1}), 0, count,
                  tensor.declaration.dtype, bytes.data());
  return bytes;
}

// Where a rank's part stands: shape, then offset.
std::vector<int64_t> place_of(const Piece& piece) {
  std::vector<int64_t> place = piece.shape;
  place.insert(place.end(), piece.global_offset.begin(), piece.global_offset.end());
  return place;
}

}  // namespace

uint64_t weight_bytes(const ParameterRegistry& registry) {
  uint64_t bytes = 0;
  for (const config::TensorSpec& spec : registry.table().tensors())
    bytes += static_cast<uint64_t>(spec.numel()) * size_of(saved_dtype(spec, registry));
  return bytes;
}

bool is_spread(const ParameterRegistry& registry) {
  int64_t held = 0, all = 0;
  for (const Parameter& parameter : registry.parameters()) held += parameter.numel();
  for (const TiedCopy& copy : registry.tied_copies()) held += copy.spec->numel();
  for (const config::TensorSpec& spec : registry.table().tensors()) all += spec.numel();
  return held < all;
}

SpreadWeights spread_weights(ParameterRegistry& registry, int64_t tensor_ranks) {
  const std::map<std::string, std::string> sources = tied_sources(registry);
  SpreadWeights result;
  int64_t number = -1;
  for (const config::TensorSpec& spec : registry.table().tensors()) {
    ++number;
    const auto source = sources.find(spec.name);
    const bool is_copy = source != sources.end();
    const auto [parameter, piece] = registry.find(is_copy ? source->second : spec.name);
    if (!parameter || (parameter->is_follower && !is_copy)) continue;
    // A copy of the trunk's tensor is written by the stage that has the MTP module.
    if (!is_copy &&
        (spec.role == config::TensorRole::mtp_embedding || spec.role == config::TensorRole::mtp_head))
      continue;
    const Replica& replica = parameter->replica;
    if (number % replica.size != replica.place) continue;
    if (piece->is_whole())
      result.whole.push_back(whole_tensor(spec, *parameter, *piece, registry));
    else
      result.cut.push_back({{spec.name, saved_dtype(spec, registry), spec.shape},
                            parameter,
                            piece,
                            number / replica.size % tensor_ranks});
  }
  return result;
}

std::vector<std::byte> bring_together(const SpreadWeights::Cut& tensor, const TensorExchange& ranks) {
  std::vector<std::byte> part = bytes_of(tensor);
  std::vector<int64_t> place = place_of(*tensor.piece);
  if (ranks.place != tensor.writer) {
    ranks.send(std::as_writable_bytes(std::span(place)), tensor.writer);
    if (!part.empty()) ranks.send(part, tensor.writer);
    return {};
  }
  const size_t size = size_of(tensor.declaration.dtype);
  std::vector<std::byte> whole(static_cast<size_t>(tensor.piece->spec->numel()) * size);
  const auto put = [&](const Piece& piece, const std::vector<std::byte>& bytes) {
    piece.for_each_run([&](int64_t global, int64_t local, int64_t count) {
      std::memcpy(whole.data() + static_cast<size_t>(global) * size,
                  bytes.data() + static_cast<size_t>(local) * size, static_cast<size_t>(count) * size);
    });
  };
  put(*tensor.piece, part);
  for (int64_t from = 0; from < ranks.size; ++from) {
    if (from == ranks.place) continue;
    ranks.receive(std::as_writable_bytes(std::span(place)), from);
    const auto dims = static_cast<std::ptrdiff_t>(place.size() / 2);
    const Piece theirs{
        tensor.piece->spec, 0, {place.begin(), place.begin() + dims}, {place.begin() + dims, place.end()}};
    part.resize(static_cast<size_t>(theirs.numel()) * size);
    if (!part.empty()) ranks.receive(part, from);
    put(theirs, part);
  }
  return whole;
}

}  // namespace fathom::weights

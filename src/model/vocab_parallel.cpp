#include "model/vocab_parallel.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/where.h>

#include "model/sequence_parallel.h"
#include "ops/linear.h"

namespace fathom::model {

ops::Weight& add_vocab_rows(weights::ParameterRegistry& registry, const ModelRanks& ranks,
                            const std::string& name) {
  const std::vector<int64_t>& shape = registry.table().at(name).shape;
  const Share rows = ranks.tensor_share(shape[0]);
  return registry.add(name, {rows.count, shape[1]}, {weights::Slice{name, 0, rows.begin, rows.count}},
                      ranks.cuts_matrices() ? weights::Holders::replica : weights::Holders::stage);
}

at::Tensor embed_tokens(const at::Tensor& tokens, ops::Weight& embedding, int64_t vocab_size,
                        const ModelRanks& ranks) {
  if (!ranks.cuts_matrices()) return ops::embedding(tokens, embedding);
  const Share rows = ranks.tensor_share(vocab_size);
  const at::Tensor local = tokens - rows.begin;
  const at::Tensor is_here = local.ge(0).logical_and(local.lt(rows.count));
  const at::Tensor found = ops::embedding(at::where(is_here, local, 0), embedding);
  return sum_to_own_tokens(found * is_here.to(found.scalar_type()).unsqueeze(1), ranks);
}

ops::VocabLoss token_loss(const at::Tensor& hidden, ops::Weight& head, const at::Tensor& targets,
                          double coefficient, double z_loss, int64_t vocab_size, const ModelRanks& ranks) {
  if (!ranks.cuts_matrices()) return ops::vocab_loss(hidden, head, targets, coefficient, z_loss);
  ops::VocabSlice slice;
  slice.first = ranks.tensor_share(vocab_size).begin;
  slice.sum = [group = ranks.tensor](at::Tensor& values) { group->all_reduce(values); };
  slice.max = [group = ranks.tensor](at::Tensor& values) {
    group->all_reduce(values, parallel::Reduce::max);
  };
  return ops::vocab_loss(gather_tokens(hidden, targets.size(0), ranks), head, targets, coefficient, z_loss,
                         slice);
}

}  // namespace fathom::model

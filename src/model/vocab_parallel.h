// Embedding and head over tensor ranks: each has a run of the vocabulary's rows.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "model/model_ranks.h"
#include "ops/vocab_loss.h"
#include "weights/parameter_registry.h"

namespace fathom::model {

// This rank's rows of a [V, D] tensor.
ops::Weight& add_vocab_rows(weights::ParameterRegistry& registry, const ModelRanks& ranks,
                            const std::string& name);

// tokens int64 [T], all of them -> this rank's rows of [T, D].
at::Tensor embed_tokens(const at::Tensor& tokens, ops::Weight& embedding, int64_t vocab_size,
                        const ModelRanks& ranks);

// ops::vocab_loss of hidden, this rank's rows of [T, D]; targets [T], all of them.
ops::VocabLoss token_loss(const at::Tensor& hidden, ops::Weight& head, const at::Tensor& targets,
                          double coefficient, double z_loss, int64_t vocab_size, const ModelRanks& ranks);

}  // namespace fathom::model

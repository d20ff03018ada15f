// Tensor parallelism keeps the tokens cut between the matrices (sequence parallel, arXiv 2205.05198): each tensor rank
// holds a run of the micro-batch's T rows. Before matrices cut by output the rows are gathered, behind those cut by
// input they are summed and cut again; each is the other's gradient. Groups of one: nothing happens.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/model_ranks.h"

namespace fathom::model {

// mine [T/n, ...] -> [T, ...]. Backward: the sum of all ranks' gradients, cut.
at::Tensor gather_tokens(const at::Tensor& mine, int64_t num_tokens, const ModelRanks& ranks);
// The same where every rank then computes the same from the whole, once for all: backward takes its own rows.
at::Tensor gather_tokens_once(const at::Tensor& mine, int64_t num_tokens, const ModelRanks& ranks);
// Each rank's part of a sum [T, ...] -> this rank's rows of the sum [T/n, ...]. Backward: all ranks' rows.
at::Tensor sum_to_own_tokens(const at::Tensor& part, const ModelRanks& ranks);

}  // namespace fathom::model

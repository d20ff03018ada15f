#include "model/sequence_parallel.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <vector>

namespace fathom::model {
namespace {

using parallel::Communicator;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::vector<int64_t> rows_of_places(int64_t num_tokens, const Communicator& group) {
  std::vector<int64_t> rows;
  for (int64_t p = 0; p < group.size(); ++p)
    rows.push_back(num_tokens * (p + 1) / group.size() - num_tokens * p / group.size());
  return rows;
}

at::Tensor with_rows(const at::Tensor& like, int64_t rows) {
  std::vector<int64_t> shape = like.sizes().vec();
  shape[0] = rows;
  return at::empty(shape, like.options());
}

at::Tensor gather(const at::Tensor& mine, int64_t num_tokens, Communicator& group) {
  at::Tensor all = with_rows(mine, num_tokens);
  const Share own = ModelRanks::share(&group, num_tokens);
  if (num_tokens % group.size() == 0) {
    group.all_gather(mine.contiguous(), all);
  } else {
    all.narrow(0, own.begin, own.count).copy_(mine);
    group.all_gather_rows(all, rows_of_places(num_tokens, group));
  }
  return all;
}

at::Tensor sum_and_cut(const at::Tensor& part, Communicator& group) {
  const int64_t num_tokens = part.size(0);
  at::Tensor mine = with_rows(part, ModelRanks::share(&group, num_tokens).count);
  group.reduce_scatter(part.contiguous(), rows_of_places(num_tokens, group), mine);
  return mine;
}

at::Tensor own_rows(const at::Tensor& whole, const Communicator& group) {
  const Share own = ModelRanks::share(&group, whole.size(0));
  return whole.narrow(0, own.begin, own.count);
}

Communicator& group_of(AutogradContext* ctx) {
  return *reinterpret_cast<Communicator*>(ctx->saved_data["group"].toInt());
}

struct Gather : torch::autograd::Function<Gather> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& mine, int64_t num_tokens,
                            Communicator* group, bool sums) {
    ctx->saved_data["group"] = reinterpret_cast<int64_t>(group);
    ctx->saved_data["sums"] = sums;
    return gather(mine, num_tokens, *group);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    Communicator& group = group_of(ctx);
    const at::Tensor none;
    const at::Tensor mine = ctx->saved_data["sums"].toBool() ? sum_and_cut(grads[0], group)
                                                             : own_rows(grads[0], group).contiguous();
    return {mine, none, none, none};
  }
};

struct SumAndCut : torch::autograd::Function<SumAndCut> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& part, Communicator* group) {
    ctx->saved_data["group"] = reinterpret_cast<int64_t>(group);
    ctx->saved_data["tokens"] = part.size(0);
    return sum_and_cut(part, *group);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {gather(grads[0], ctx->saved_data["tokens"].toInt(), group_of(ctx)), at::Tensor()};
  }
};

}  // namespace

at::Tensor gather_tokens(const at::Tensor& mine, int64_t num_tokens, const ModelRanks& ranks) {
  return ranks.cuts_matrices() ? Gather::apply(mine, num_tokens, ranks.tensor, true) : mine;
}

at::Tensor gather_tokens_once(const at::Tensor& mine, int64_t num_tokens, const ModelRanks& ranks) {
  return ranks.cuts_matrices() ? Gather::apply(mine, num_tokens, ranks.tensor, false) : mine;
}

at::Tensor sum_to_own_tokens(const at::Tensor& part, const ModelRanks& ranks) {
  return ranks.cuts_matrices() ? SumAndCut::apply(part, ranks.tensor) : part;
}

}  // namespace fathom::model

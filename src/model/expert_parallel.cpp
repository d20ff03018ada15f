#include "model/expert_parallel.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>

#include "base/error.h"

namespace fathom::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct TrafficHolder : torch::CustomClassHolder {
  explicit TrafficHolder(ExpertTrafficPtr t) : traffic(std::move(t)) {}
  ExpertTrafficPtr traffic;
};

void keep(AutogradContext* ctx, const ExpertTrafficPtr& traffic) {
  ctx->saved_data["traffic"] = c10::IValue::make_capsule(c10::make_intrusive<TrafficHolder>(traffic));
}

ExpertTrafficPtr kept(AutogradContext* ctx) {
  const auto capsule = ctx->saved_data["traffic"].toCapsule();
  return static_cast<TrafficHolder*>(capsule.get())->traffic;
}

int64_t sum(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

at::Tensor exchange(const at::Tensor& rows, const std::vector<int64_t>& send,
                    const std::vector<int64_t>& recv, parallel::Communicator& group) {
  at::Tensor arrived = at::empty({sum(recv), rows.size(1)}, rows.options());
  group.all_to_all(rows.contiguous(), send, arrived, recv);
  return arrived;
}

at::Tensor there(const at::Tensor& rows, const ExpertTraffic& t) {
  return exchange(rows, t.send_rows, t.recv_rows, *t.group);
}
at::Tensor back(const at::Tensor& rows, const ExpertTraffic& t) {
  return exchange(rows, t.recv_rows, t.send_rows, *t.group);
}

struct SendToExperts : torch::autograd::Function<SendToExperts> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weights,
                               const ExpertTrafficPtr* traffic) {
    const ExpertTraffic& t = **traffic;
    keep(ctx, *traffic);
    const at::Tensor of_rows = at::index_select(weights.detach().flatten(), 0, t.plan.row_choice);
    return {there(ops::gather_rows(x.detach(), t.plan), t), there(of_rows.unsqueeze(1), t)};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const ExpertTrafficPtr traffic = kept(ctx);
    const ops::DispatchPlan& plan = traffic->plan;
    const at::Tensor d_rows = back(grads[0], *traffic), d_weights = back(grads[1], *traffic);
    return {ops::combine_rows(d_rows, at::Tensor(), plan),
            at::index_select(d_weights.squeeze(1), 0, plan.choice_row.flatten())
                .view({plan.num_tokens, plan.num_choices}),
            at::Tensor()};
  }
};

struct ReturnFromExperts : torch::autograd::Function<ReturnFromExperts> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& rows, const ExpertTrafficPtr* traffic) {
    keep(ctx, *traffic);
    return ops::combine_rows(back(rows.detach(), **traffic), at::Tensor(), (*traffic)->plan);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const ExpertTrafficPtr traffic = kept(ctx);
    return {there(ops::gather_rows(grads[0].contiguous(), traffic->plan), *traffic), at::Tensor()};
  }
};

}  // namespace

ExpertTrafficPtr plan_traffic(const at::Tensor& indices, int64_t num_experts, parallel::Communicator& group) {
  auto traffic = std::make_shared<ExpertTraffic>();
  traffic->group = &group;
  traffic->plan = ops::plan_dispatch(indices, num_experts);
  const int64_t places = group.size(), own = num_experts / places;
  FATHOM_ASSERT(num_experts % places == 0);  // recipe_check names the keys
  // What each place's experts get from here, and mine from each place.
  std::vector<int64_t> sent(static_cast<size_t>(num_experts)), arriving(sent.size());
  for (int64_t e = 0; e < num_experts; ++e) sent[static_cast<size_t>(e)] = traffic->plan.count(e);
  const std::vector<int64_t> equal(static_cast<size_t>(places), own);
  const auto wrap = [](std::vector<int64_t>& counts) {
    return at::from_blob(counts.data(), {static_cast<int64_t>(counts.size())},
                         at::TensorOptions().dtype(at::kLong));
  };
  at::Tensor recv = wrap(arriving);
  group.all_to_all(wrap(sent), equal, recv, equal);
  std::vector<int32_t> experts;
  for (int64_t p = 0; p < places; ++p) {
    int64_t out = 0, in = 0;
    for (int64_t e = 0; e < own; ++e) {
      const auto i = static_cast<size_t>(p * own + e);
      out += sent[i];
      in += arriving[i];
      experts.insert(experts.end(), static_cast<size_t>(arriving[i]), static_cast<int32_t>(e));
    }
    traffic->send_rows.push_back(out);
    traffic->recv_rows.push_back(in);
  }
  const at::Tensor of_rows = at::empty({static_cast<int64_t>(experts.size()), 1}, indices.options());
  std::copy(experts.begin(), experts.end(), of_rows.mutable_data_ptr<int32_t>());
  traffic->arrived = ops::plan_dispatch(of_rows, own);
  return traffic;
}

ArrivedRows send_to_experts(const at::Tensor& x, const at::Tensor& weights, const ExpertTrafficPtr& traffic) {
  const variable_list out = SendToExperts::apply(x, weights, &traffic);
  return {out[0], out[1]};
}

at::Tensor return_from_experts(const at::Tensor& rows, const ExpertTrafficPtr& traffic) {
  return ReturnFromExperts::apply(rows, &traffic);
}

}  // namespace fathom::model

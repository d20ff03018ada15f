#include "ops/vocab_loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "base/error.h"
#include "kernels/cross_entropy.h"
#include "ops/grouped_gemm.h"
#include "ops/kernel_args.h"
#include "ops/runtime.h"

namespace fathom::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows of logits that exist at once; small enough for MEM-1, large enough that the products stay efficient.
constexpr int64_t kChunkBytes = 96 << 20;

// Chunks of T rows are of one size, as near as a multiple of 16 allows: the fewest that stay below kChunkBytes.
int64_t rows_per_chunk(const Weight& head, int64_t bytes_per_logit, int64_t T) {
  const int64_t most =
      std::max<int64_t>(1, kChunkBytes / std::max<int64_t>(1, head.value.size(0) * bytes_per_logit) / 16);
  const int64_t units = (T + 15) / 16, chunks = std::max<int64_t>(1, (units + most - 1) / most);
  return 16 * ((units + chunks - 1) / chunks);
}

struct ChunkResult {
  at::Tensor nll;       // [rows], 0 where ignored
  at::Tensor penalty;   // [rows] lse^2, 0 where ignored
  at::Tensor d_logits;  // [rows, V], undefined without gradients
};

ChunkResult composed_chunk(const at::Tensor& logits, const at::Tensor& targets, double coefficient,
                           double z_loss, bool with_grad) {
  const at::Tensor wide = logits.to(accumulate_dtype(logits));
  const at::Tensor counted = targets.ne(kIgnoreTarget), safe = at::where(counted, targets, 0).unsqueeze(1);
  const at::Tensor lse = at::logsumexp(wide, {1}), keep = counted.to(wide.scalar_type());
  ChunkResult result;
  result.nll = (lse - wide.gather(1, safe).squeeze(1)) * keep;
  result.penalty = lse.square() * keep;
  if (with_grad) {
    // d/dlogits of nll is softmax - onehot; of z * lse^2 it is 2 z lse softmax
    const at::Tensor softmax_scale = (coefficient * keep * (1 + 2 * z_loss * lse)).unsqueeze(1);
    at::Tensor d = (wide - lse.unsqueeze(1)).exp_().mul_(softmax_scale);
    d.scatter_add_(1, safe, (-coefficient * keep).unsqueeze(1));
    result.d_logits = d.to(logits.scalar_type());
  }
  return result;
}

// As composed_chunk, of a slice: the largest logit, the sum of exponentials and the target's logit are the group's.
ChunkResult sliced_chunk(const at::Tensor& logits, const at::Tensor& targets, double coefficient,
                         double z_loss, bool with_grad, const VocabSlice& slice) {
  const at::Tensor wide = logits.to(accumulate_dtype(logits));
  const at::Tensor counted = targets.ne(kIgnoreTarget), keep = counted.to(wide.scalar_type());
  const at::Tensor local = targets - slice.first;
  const at::Tensor is_here = counted.logical_and(local.ge(0)).logical_and(local.lt(logits.size(1)));
  const at::Tensor safe = at::where(is_here, local, 0).unsqueeze(1), here = is_here.to(wide.scalar_type());
  at::Tensor largest = wide.amax({1});
  slice.max(largest);
  at::Tensor sums =
      at::stack({(wide - largest.unsqueeze(1)).exp().sum(1), wide.gather(1, safe).squeeze(1) * here});
  slice.sum(sums);
  const at::Tensor lse = sums[0].log() + largest;
  ChunkResult result;
  result.nll = (lse - sums[1]) * keep;
  result.penalty = lse.square() * keep;
  if (with_grad) {
    const at::Tensor softmax_scale = (coefficient * keep * (1 + 2 * z_loss * lse)).unsqueeze(1);
    at::Tensor d = (wide - lse.unsqueeze(1)).exp_().mul_(softmax_scale);
    d.scatter_add_(1, safe, (-coefficient * here).unsqueeze(1));
    result.d_logits = d.to(logits.scalar_type());
  }
  return result;
}

// As composed_chunk, by the kernel; the gradient takes the place of the logits.
ChunkResult chunk_by_kernel(const at::Tensor& logits, const at::Tensor& targets, double coefficient,
                            double z_loss, bool with_grad) {
  const int64_t rows = logits.size(0);
  const at::Tensor ids = targets.contiguous();
  ChunkResult result;
  result.nll = at::empty({rows}, logits.options().dtype(at::kFloat));
  at::Tensor lse = at::empty({rows}, logits.options().dtype(at::kFloat));
  kernels::CrossEntropyParams params;
  params.dtype = params.grad_type = kernel_dtype(logits);
  params.num_rows = rows;
  params.vocab_size = logits.size(1);
  params.logits = logits.const_data_ptr();
  params.logits_stride = params.dlogits_stride = logits.stride(0);
  params.targets = ids.const_data_ptr<int64_t>();
  params.ignore = kIgnoreTarget;
  params.coefficient = coefficient;
  params.z_loss = z_loss;
  params.nll = result.nll.mutable_data_ptr<float>();
  params.lse = lse.mutable_data_ptr<float>();
  if (with_grad) params.dlogits = logits.mutable_data_ptr();
  kernels::cross_entropy(params);
  result.penalty = lse.square() * ids.ne(kIgnoreTarget);
  if (with_grad) result.d_logits = logits;
  return result;
}

ChunkResult evaluate_chunk(const at::Tensor& logits, const at::Tensor& targets, double coefficient,
                           double z_loss, bool with_grad, const VocabSlice& slice) {
  if (!slice.is_whole()) return sliced_chunk(logits, targets, coefficient, z_loss, with_grad, slice);
  return use_kernels(logits) ? chunk_by_kernel(logits, targets, coefficient, z_loss, with_grad)
                             : composed_chunk(logits, targets, coefficient, z_loss, with_grad);
}

struct LossSums {
  double nll = 0, penalty = 0;
  int64_t num_targets = 0;
};

// Runs the chunks; fills d_hidden and hands the head's gradient on where gradients are wanted.
LossSums run_chunks(const at::Tensor& hidden, Weight& head, const at::Tensor& targets, double coefficient,
                    double z_loss, const VocabSlice& slice, at::Tensor* d_hidden) {
  LossSums sums;
  const int64_t T = hidden.size(0);
  const int64_t step = rows_per_chunk(head, hidden.element_size(), T);
  for (int64_t first = 0; first < T; first += step) {
    const int64_t rows = std::min(step, T - first);
    const at::Tensor h = hidden.narrow(0, first, rows), t = targets.narrow(0, first, rows);
    const ChunkResult chunk =
        evaluate_chunk(at::mm(h, head.value.t()), t, coefficient, z_loss, d_hidden != nullptr, slice);
    if (!hidden.is_meta()) {
      sums.nll += chunk.nll.sum(at::kDouble).item<double>();
      sums.penalty += chunk.penalty.sum(at::kDouble).item<double>();
      sums.num_targets += t.ne(kIgnoreTarget).sum().item<int64_t>();
    }
    if (d_hidden) {
      at::Tensor target = d_hidden->narrow(0, first, rows);
      at::mm_out(target, chunk.d_logits, head.value);
      accumulate_grad(head, [h, d = chunk.d_logits](Weight& w) { add_product_grad(w, d, h); });
    }
  }
  return sums;
}

struct FusedLoss : torch::autograd::Function<FusedLoss> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden, Weight* head,
                            const at::Tensor& targets, double coefficient, double z_loss,
                            const VocabSlice* slice, LossSums* sums) {
    at::Tensor d_hidden = at::empty_like(hidden);
    *sums = run_chunks(hidden.detach(), *head, targets, coefficient, z_loss, *slice, &d_hidden);
    ctx->save_for_backward({d_hidden});
    return at::scalar_tensor(coefficient * (sums->nll + z_loss * sums->penalty),
                             hidden.options().dtype(accumulate_dtype(hidden)));
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    if (!grads[0].is_meta() && grads[0].item<double>() != 1.0)
      throw NumericError("vocab_loss entered the total with factor {}: put the factor into `coefficient`",
                         grads[0].item<double>());
    const at::Tensor none;
    return {ctx->get_saved_variables()[0], none, none, none, none, none, none};
  }
};

}  // namespace

VocabLoss vocab_loss(const at::Tensor& hidden, Weight& head, const at::Tensor& targets, double coefficient,
                     double z_loss, const VocabSlice& slice) {
  VocabLoss result;
  LossSums sums;
  if (at::GradMode::is_enabled() && hidden.requires_grad()) {
    result.loss = FusedLoss::apply(hidden, &head, targets, coefficient, z_loss, &slice, &sums);
  } else {
    sums = run_chunks(hidden, head, targets, coefficient, z_loss, slice, nullptr);
    result.loss = at::scalar_tensor(coefficient * (sums.nll + z_loss * sums.penalty),
                                    hidden.options().dtype(accumulate_dtype(hidden)));
  }
  result.nll_sum = sums.nll;
  result.num_targets = sums.num_targets;
  return result;
}

at::Tensor target_log_probs(const at::Tensor& hidden, const Weight& head, const at::Tensor& targets) {
  at::NoGradGuard no_grad;
  const int64_t T = hidden.size(0), step = rows_per_chunk(head, hidden.element_size(), T);
  at::Tensor result = at::zeros({T}, hidden.options().dtype(accumulate_dtype(hidden)));
  for (int64_t first = 0; first < T; first += step) {
    const int64_t rows = std::min(step, T - first);
    const at::Tensor logits = at::mm(hidden.narrow(0, first, rows), head.value.t());
    result.narrow(0, first, rows)
        .copy_(-evaluate_chunk(logits, targets.narrow(0, first, rows), 1, 0, false, {}).nll);
  }
  return result;
}

}  // namespace fathom::ops

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/dispatch.h"
#include "kernels/reference/values.h"

namespace fathom::kernels::reference {
namespace {

// Value j of a token of one head.
template <typename T>
struct HeadView {
  T* base;
  int64_t token_stride;
  T* at(int64_t token, int64_t j) const { return base + token * token_stride + j; }
};

template <typename T, typename Pointer>
HeadView<T> view(Pointer x, const AttentionShape& shape, const AttentionTask& task, int64_t token_stride,
                 int64_t head_stride) {
  return {
      static_cast<T*>(x) + task.sequence_idx * shape.seq_length * token_stride + task.head_idx * head_stride,
      token_stride};
}

template <typename T>
double dot(const HeadView<const T>& a, int64_t i, const HeadView<const T>& b, int64_t j, int64_t dim) {
  double sum = 0;
  for (int64_t d = 0; d < dim; ++d) sum += get(a.at(i, d)) * get(b.at(j, d));
  return sum;
}

int64_t first_key(const int32_t* doc_start, const AttentionShape& shape, const AttentionTask& task,
                  int64_t token) {
  if (!doc_start) return 0;
  const int32_t start = doc_start[task.sequence_idx * shape.seq_length + token];
  return start > 0 ? start : 0;
}

template <typename T>
void forward(const AttentionForwardParams& p, const AttentionTask& task, double* probs) {
  const AttentionShape& shape = p.shape;
  const auto q = view<const T>(p.q, shape, task, p.q_token_stride, p.q_head_stride);
  const auto k = view<const T>(p.k, shape, task, p.k_token_stride, p.k_head_stride);
  const auto v = view<const T>(p.v, shape, task, p.v_token_stride, p.v_head_stride);
  const auto out = view<T>(p.out, shape, task, p.out_token_stride, p.out_head_stride);
  float* lse = p.lse + (task.sequence_idx * shape.num_heads + task.head_idx) * shape.seq_length;
  const int64_t end = std::min(shape.seq_length, task.end_block * kAttentionBlock);
  for (int64_t t = task.begin_block * kAttentionBlock; t < end; ++t) {
    const int64_t first = first_key(p.doc_start, shape, task, t);
    if (first > t) {
      lse[t] = std::numeric_limits<float>::infinity();
      for (int64_t d = 0; d < shape.v_head_dim; ++d) put(out.at(t, d), 0);
      continue;
    }
    double maximum = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int64_t u = first; u <= t; ++u) {
      probs[u] = shape.softmax_scale * dot(q, t, k, u, shape.qk_head_dim);
      maximum = std::max(maximum, probs[u]);
    }
    for (int64_t u = first; u <= t; ++u) sum += probs[u] = std::exp(probs[u] - maximum);
    lse[t] = static_cast<float>(maximum + std::log(sum));
    for (int64_t d = 0; d < shape.v_head_dim; ++d) {
      double value = 0;
      for (int64_t u = first; u <= t; ++u) value += probs[u] * get(v.at(u, d));
      put(out.at(t, d), value / sum);
    }
  }
}

template <typename T>
void backward(const AttentionBackwardParams& p, const AttentionTask& task, double* memory) {
  const AttentionShape& shape = p.shape;
  const int64_t qk_dim = shape.qk_head_dim, v_dim = shape.v_head_dim, seq_length = shape.seq_length;
  const auto q = view<const T>(p.q, shape, task, p.q_token_stride, p.q_head_stride);
  const auto k = view<const T>(p.k, shape, task, p.k_token_stride, p.k_head_stride);
  const auto v = view<const T>(p.v, shape, task, p.v_token_stride, p.v_head_stride);
  const auto out = view<const T>(p.out, shape, task, p.out_token_stride, p.out_head_stride);
  const auto dout = view<const T>(p.dout, shape, task, p.dout_token_stride, p.dout_head_stride);
  const auto dq = view<T>(p.dq, shape, task, p.dq_token_stride, p.dq_head_stride);
  const auto dk = view<T>(p.dk, shape, task, p.dk_token_stride, p.dk_head_stride);
  const auto dv = view<T>(p.dv, shape, task, p.dv_token_stride, p.dv_head_stride);
  const float* lse = p.lse + (task.sequence_idx * shape.num_heads + task.head_idx) * seq_length;
  double *dq_row = memory, *dk_all = dq_row + qk_dim, *dv_all = dk_all + seq_length * qk_dim;
  for (int64_t i = 0; i < seq_length * (qk_dim + v_dim); ++i) dk_all[i] = 0;
  for (int64_t t = 0; t < seq_length; ++t) {
    const double delta = dot(out, t, dout, t, v_dim);
    for (int64_t d = 0; d < qk_dim; ++d) dq_row[d] = 0;
    for (int64_t u = first_key(p.doc_start, shape, task, t); u <= t; ++u) {
      const double prob = std::exp(shape.softmax_scale * dot(q, t, k, u, qk_dim) - lse[t]);
      const double dscore = prob * (dot(dout, t, v, u, v_dim) - delta) * shape.softmax_scale;
      for (int64_t d = 0; d < v_dim; ++d) dv_all[u * v_dim + d] += prob * get(dout.at(t, d));
      for (int64_t d = 0; d < qk_dim; ++d) {
        dk_all[u * qk_dim + d] += dscore * get(q.at(t, d));
        dq_row[d] += dscore * get(k.at(u, d));
      }
    }
    for (int64_t d = 0; d < qk_dim; ++d) put(dq.at(t, d), dq_row[d]);
  }
  for (int64_t u = 0; u < seq_length; ++u) {
    for (int64_t d = 0; d < qk_dim; ++d) put(dk.at(u, d), dk_all[u * qk_dim + d]);
    for (int64_t d = 0; d < v_dim; ++d) put(dv.at(u, d), dv_all[u * v_dim + d]);
  }
}

}  // namespace

std::size_t attention_scratch_bytes(const AttentionShape& shape, bool backward) {
  const int64_t values = backward
                             ? shape.qk_head_dim + shape.seq_length * (shape.qk_head_dim + shape.v_head_dim)
                             : shape.seq_length;
  return static_cast<std::size_t>(values) * sizeof(double);
}

void attention_forward_task(const AttentionForwardParams& params, const AttentionTask& task, void* scratch) {
  with_type(params.shape.dtype,
            [&](auto type) { forward<decltype(type)>(params, task, static_cast<double*>(scratch)); });
}

void attention_backward_task(const AttentionBackwardParams& params, const AttentionTask& task,
                             void* scratch) {
  with_type(params.shape.dtype,
            [&](auto type) { backward<decltype(type)>(params, task, static_cast<double*>(scratch)); });
}

}  // namespace fathom::kernels::reference

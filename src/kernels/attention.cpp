#include "kernels/attention.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/dispatch.h"

namespace fathom::kernels {
namespace {

template <typename Params>
using TaskBody = void(const Params& params, const AttentionTask& task, void* scratch);

// The plain choice, then tiles where they multiply what there is.
template <typename Function>
Function* pick_attention(DType type, Function* reference_body, Function* avx2_body, Function* avx512_body,
                         Function* amx_body) {
  if (type == DType::bf16 && isa() == Isa::amx) return amx_body;
  return pick(type, reference_body, avx2_body, avx512_body);
}
#define FATHOM_PICK_ATTENTION(type, name) \
  pick_attention(type, &reference::name, &avx2::name, &avx512::name, &amx::name)

bool is_empty(const AttentionShape& shape) {
  return shape.num_sequences == 0 || shape.seq_length == 0 || shape.num_heads == 0;
}

}  // namespace

void attention_forward(const AttentionForwardParams& params) {
  const AttentionShape& shape = params.shape;
  if (is_empty(shape)) return;
  auto* body = FATHOM_PICK_ATTENTION(shape.dtype, attention_forward_task);
  const std::size_t bytes = FATHOM_PICK_ATTENTION(shape.dtype, attention_scratch_bytes)(shape, false);
  const int64_t blocks = (shape.seq_length + kAttentionBlock - 1) / kAttentionBlock;
  const int64_t heads = shape.num_sequences * shape.num_heads;
  // Parts of a head pack its keys again, so only as many as keep all threads busy; the result does not depend
  // on them.
  const int64_t parts = std::clamp<int64_t>((2 * num_threads() + heads - 1) / heads, 1, blocks);
  parallel_tasks(heads * parts, [&](int64_t task_idx) {
    const int64_t head = task_idx / parts, part = parts - 1 - task_idx % parts;  // the longest first
    const AttentionTask task{head / shape.num_heads, head % shape.num_heads, blocks * part / parts,
                             blocks * (part + 1) / parts};
    body(params, task, thread_scratch(bytes));
  });
}

void attention_backward(const AttentionBackwardParams& params) {
  const AttentionShape& shape = params.shape;
  if (is_empty(shape)) return;
  auto* body = FATHOM_PICK_ATTENTION(shape.dtype, attention_backward_task);
  const std::size_t bytes = FATHOM_PICK_ATTENTION(shape.dtype, attention_scratch_bytes)(shape, true);
  const int64_t blocks = (shape.seq_length + kAttentionBlock - 1) / kAttentionBlock;
  parallel_tasks(shape.num_sequences * shape.num_heads, [&](int64_t head) {
    body(params, {head / shape.num_heads, head % shape.num_heads, 0, blocks}, thread_scratch(bytes));
  });
}

}  // namespace fathom::kernels

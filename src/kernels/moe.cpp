#include "kernels/moe.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/parallel.h"
#include "kernels/dispatch.h"

namespace fathom::kernels {
namespace {

int64_t grain_of(int64_t values_per_item) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, values_per_item));
}

}  // namespace

void moe_plan(const MoePlanParams& params) {
  const int64_t num_rows = params.num_tokens * params.num_choices;
  int64_t* offsets = params.offsets;
  std::fill_n(offsets, params.num_experts + 1, 0);
  for (int64_t i = 0; i < num_rows; ++i) ++offsets[params.indices[i] + 1];
  for (int64_t e = 0; e < params.num_experts; ++e) {
    if (params.counts) params.counts[e] = offsets[e + 1];
    offsets[e + 1] += offsets[e];
  }
  // Choices in order fill each expert's rows in order of tokens.
  std::vector<int64_t> next(offsets, offsets + params.num_experts);
  for (int64_t t = 0, i = 0; t < params.num_tokens; ++t) {
    for (int64_t k = 0; k < params.num_choices; ++k, ++i) {
      const int64_t row = next[static_cast<std::size_t>(params.indices[i])]++;
      if (params.row_token) params.row_token[row] = static_cast<int32_t>(t);
      if (params.row_choice) params.row_choice[row] = static_cast<int32_t>(i);
      if (params.choice_row) params.choice_row[i] = static_cast<int32_t>(row);
    }
  }
}

void moe_gather(const MoeGatherParams& params) {
  const int64_t size = size_of(params.dtype), row_bytes = params.dim * size;
  if (row_bytes == 0) return;
  parallel_for(0, params.num_rows, grain_of(params.dim), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      std::memcpy(static_cast<char*>(params.rows) + row * row_bytes,
                  static_cast<const char*>(params.x) + params.row_token[row] * params.x_stride * size,
                  static_cast<std::size_t>(row_bytes));
  });
}

void moe_combine(const MoeCombineParams& params) {
  if (params.dim == 0) return;
  auto* body = FATHOM_PICK(params.dtype, combine_tokens);
  parallel_for(0, params.num_tokens, grain_of(params.dim * (params.num_choices + 1)),
               [&](int64_t begin, int64_t end) { body(params, begin, end); });
}

void moe_combine_backward(const MoeCombineBackwardParams& params) {
  auto* body = FATHOM_PICK(params.dtype, combine_backward_tokens);
  parallel_for(0, params.num_tokens, grain_of(params.dim * (params.num_choices + 1)),
               [&](int64_t begin, int64_t end) { body(params, begin, end); });
}

}  // namespace fathom::kernels

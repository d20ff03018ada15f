#include "kernels/elementwise.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/dispatch.h"

namespace fathom::kernels {
namespace {

constexpr int64_t kGrain = 32768;
constexpr int64_t kColumnGrain = 64;  // whole cache lines for each thread

template <typename From, typename To>
void convert_parallel(const From* from, To* to, int64_t count) {
  using Body = void(const From*, To*, int64_t);
  auto* body =
      pick<Body>(DType::f32, &reference::convert_range, &avx2::convert_range, &avx512::convert_range);
  parallel_for(0, count, kGrain,
               [&](int64_t begin, int64_t end) { body(from + begin, to + begin, end - begin); });
}

template <typename Sum, typename T>
void accumulate_parallel(DType sum_type, Sum* sum, DType type, const T* x, int64_t count, float scale) {
  auto* body = FATHOM_PICK(DType::f32, accumulate_range);
  parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    body(sum_type, sum + begin, type, x + begin, end - begin, scale);
  });
}

}  // namespace

void convert(const bf16* from, float* to, int64_t count) { convert_parallel(from, to, count); }
void convert(const float* from, bf16* to, int64_t count) { convert_parallel(from, to, count); }

void accumulate(float* sum, const float* x, int64_t count, float scale) {
  accumulate_parallel(DType::f32, sum, DType::f32, x, count, scale);
}
void accumulate(float* sum, const bf16* x, int64_t count, float scale) {
  accumulate_parallel(DType::f32, sum, DType::bf16, x, count, scale);
}
void accumulate(bf16* sum, const float* x, int64_t count) {
  accumulate_parallel(DType::bf16, sum, DType::f32, x, count, 1);
}
void accumulate(bf16* sum, const bf16* x, int64_t count) {
  accumulate_parallel(DType::bf16, sum, DType::bf16, x, count, 1);
}

// Threads share the columns, so that each row's sum keeps the order of the tokens.
void embedding_grad(const EmbeddingGradParams& params) {
  auto* body = FATHOM_PICK(params.dtype, accumulate_range);
  const int64_t lines = (params.dim + kColumnGrain - 1) / kColumnGrain;
  const int64_t size = size_of(params.dtype), grad_size = size_of(params.grad_type);
  parallel_for(0, lines, 1, [&](int64_t begin_line, int64_t end_line) {
    const int64_t begin = begin_line * kColumnGrain,
                  count = std::min(params.dim, end_line * kColumnGrain) - begin;
    for (int64_t t = 0; t < params.num_tokens; ++t) {
      if (params.ids[t] < 0) continue;
      body(params.grad_type,
           static_cast<char*>(params.grad) + (params.ids[t] * params.dim + begin) * grad_size, params.dtype,
           static_cast<const char*>(params.dx) + (t * params.dim + begin) * size, count, 1);
    }
  });
}

}  // namespace fathom::kernels

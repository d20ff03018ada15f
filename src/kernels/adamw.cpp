#include "kernels/adamw.h"

#include <algorithm>
#include <vector>

#include "base/parallel.h"
#include "kernels/dispatch.h"

namespace fathom::kernels {
namespace {

constexpr int64_t kGrain =
    16384;  // elements: 256 KiB of parameter, gradient and moments, far more than starting a task costs

}  // namespace

void adamw(const AdamWParams& params) {
  const DType type = params.form == ParameterForm::f64 ? DType::f64 : DType::f32;
  auto* body = FATHOM_PICK(type, adamw_range);
  parallel_for(0, params.count, kGrain, [&](int64_t begin, int64_t end) { body(params, begin, end); });
}

void split_masters(const float* master, bf16* hi, uint16_t* lo, int64_t count) {
  auto* body = FATHOM_PICK(DType::f32, split_range);
  parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    body(master + begin, hi + begin, lo + begin, end - begin);
  });
}

void merge_masters(const bf16* hi, const uint16_t* lo, float* master, int64_t count) {
  auto* body = FATHOM_PICK(DType::f32, merge_range);
  parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    body(hi + begin, lo + begin, master + begin, end - begin);
  });
}

SquareSum sum_of_squares(DType type, const void* values, int64_t count) {
  auto* body = FATHOM_PICK(type, square_sum_chunk);
  const int64_t chunks = (count + kSquareSumChunk - 1) / kSquareSumChunk;
  std::vector<SquareSum> partial(static_cast<std::size_t>(chunks));
  parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c)
      partial[static_cast<std::size_t>(c)] =
          body(type, values, c * kSquareSumChunk, std::min(count, (c + 1) * kSquareSumChunk));
  });
  SquareSum total;
  for (const SquareSum& part : partial) {
    total.sum += part.sum;
    total.has_nonfinite |= part.has_nonfinite;
  }
  return total;
}

}  // namespace fathom::kernels

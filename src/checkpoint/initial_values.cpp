#include "checkpoint/initial_values.h"

#include <algorithm>

#include "base/parallel.h"
#include "base/random.h"
#include "checkpoint/known_tensors.h"

namespace fathom::checkpoint {
namespace {

constexpr int64_t kFillChunk = 1 << 18;

}  // namespace

void initial_values(const config::TensorSpec& spec, double initializer_range, uint64_t seed, int64_t begin,
                    int64_t count, float* out) {
  if (!spec.is_initialized_normal()) {
    std::fill(out, out + count, spec.role == config::TensorRole::router_bias ? 0.0f : 1.0f);
    return;
  }
  const char* source = copied_from(spec);
  const uint64_t key = stream_key(seed, source ? source : spec.name);
  const auto std = static_cast<float>(initializer_range);
  parallel_for(0, count, kFillChunk, [&](int64_t from, int64_t to) {
    fill_normal(key, static_cast<uint64_t>(begin + from), to - from, 0.0f, std, out + from);
  });
}

}  // namespace fathom::checkpoint

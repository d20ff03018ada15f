// Attention forward and backward at a training shape: GFLOP/s for each instruction set and dtype.
#include "kernels/attention.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "base/bfloat16.h"
#include "base/parallel.h"
#include "kernels/isa.h"

namespace {

using namespace fathom;
using namespace fathom::kernels;

template <typename T>
T value_of(float x) {
  if constexpr (sizeof(T) == 2) {
    return to_bf16(x);
  } else {
    return x;
  }
}

// Of one thread the processor time, which neighbours on a shared machine disturb less; else the clock on the
// wall.
double seconds() {
  if (num_threads() == 1) return double(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The least time of `repeats` calls: the machine may be shared.
template <typename Fn>
double best_of(int repeats, Fn&& fn) {
  double best = 1e9;
  for (int i = 0; i < repeats; ++i) {
    const double start = seconds();
    fn();
    best = std::min(best, seconds() - start);
  }
  return best;
}

template <typename T>
void measure(Isa set, int64_t sequences, int64_t length, int64_t heads, int64_t qk_dim, int64_t v_dim) {
  const int64_t tokens = sequences * length;
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  const auto tensor = [&](int64_t dim) {
    std::vector<T> x(static_cast<std::size_t>(tokens * heads * dim));
    for (T& value : x) value = value_of<T>(normal(generator));
    return x;
  };
  std::vector<T> q = tensor(qk_dim), k = tensor(qk_dim), v = tensor(v_dim), dout = tensor(v_dim);
  std::vector<T> out(v.size()), dq(q.size()), dk(k.size()), dv(v.size());
  std::vector<float> lse(static_cast<std::size_t>(tokens * heads));
  const AttentionShape shape{sizeof(T) == 2 ? DType::bf16 : DType::f32,
                             sequences,
                             length,
                             heads,
                             qk_dim,
                             v_dim,
                             1 / std::sqrt(double(qk_dim))};
  const int64_t qk_token = heads * qk_dim, v_token = heads * v_dim;
  const AttentionForwardParams forward{shape,    q.data(),   qk_token, qk_dim,  k.data(),
                                       qk_token, qk_dim,     v.data(), v_token, v_dim,
                                       nullptr,  out.data(), v_token,  v_dim,   lse.data()};
  const AttentionBackwardParams backward{
      shape,     q.data(), qk_token,   qk_dim,    k.data(), qk_token,   qk_dim,      v.data(), v_token,
      v_dim,     nullptr,  out.data(), v_token,   v_dim,    lse.data(), dout.data(), v_token,  v_dim,
      dq.data(), qk_token, qk_dim,     dk.data(), qk_token, qk_dim,     dv.data(),   v_token,  v_dim};
  force_isa(set);
  const double forward_s = best_of(8, [&] { attention_forward(forward); });
  const double backward_s = best_of(8, [&] { attention_backward(backward); });
  const double pairs = double(sequences * heads) * double(length) * double(length + 1) / 2;
  const double forward_flop = 2 * pairs * double(qk_dim + v_dim),
               backward_flop = 2 * pairs * double(3 * qk_dim + 2 * v_dim);
  std::printf(
      "%-7s %-5s B %ld S %ld N %ld Dqk %ld Dv %ld, %d threads: forward %.2f ms %.0f GFLOP/s, backward %.2f "
      "ms %.0f GFLOP/s\n",
      name(set), sizeof(T) == 2 ? "bf16" : "fp32", sequences, length, heads, qk_dim, v_dim, num_threads(),
      1e3 * forward_s, 1e-9 * forward_flop / forward_s, 1e3 * backward_s, 1e-9 * backward_flop / backward_s);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) set_num_threads(std::atoi(argv[1]));
  const std::string only = argc > 2 ? argv[2] : "";
  for (Isa set : {Isa::avx2, Isa::avx512, Isa::amx}) {
    if (!is_supported(set) || (!only.empty() && only != name(set))) continue;
    for (auto [b, s, n, qk, v] : {std::array<int64_t, 5>{2, 512, 16, 96, 64}, {1, 2048, 4, 192, 128}}) {
      measure<float>(set, b, s, n, qk, v);
      measure<bf16>(set, b, s, n, qk, v);
    }
  }
}

// The training GEMMs at shapes of expert layers, the head and a plain square: GFLOP/s for each form and set.
// Arguments: threads, set (all), dtype (bf16).
#include "kernels/gemm.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
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

// Of one thread the processor time, which neighbours on a shared machine disturb less; else the clock on the
// wall.
double seconds() {
  if (num_threads() == 1) return double(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The least time of calls over 0.4 s, at least four of them: the machine may be shared.
template <typename Fn>
double best_time(Fn&& fn) {
  double best = 1e9;
  const double start = seconds();
  for (int i = 0; i < 4 || seconds() - start < 0.4; ++i) {
    const double before = seconds();
    fn();
    best = std::min(best, seconds() - before);
  }
  return best;
}

struct Shape {
  const char* name;
  int64_t groups, rows, n, k;
  const char* forms;  // of nt, nn, tn
};

// Words of random sign and fraction around 1, in either type.
std::vector<char> random_bytes(int64_t count, DType type) {
  std::mt19937 generator(1);
  std::vector<char> bytes(static_cast<std::size_t>(count * size_of(type)));
  for (int64_t i = 0; i < count; ++i) {
    const float x = static_cast<float>(generator()) * 0x1p-31f - 1;
    const bf16 y = to_bf16(x);
    std::memcpy(bytes.data() + i * size_of(type), type == DType::bf16 ? static_cast<const void*>(&y) : &x,
                static_cast<std::size_t>(size_of(type)));
  }
  return bytes;
}

void measure(const Shape& s, DType type) {
  const std::string forms = s.forms;
  std::vector<int64_t> offsets(static_cast<std::size_t>(s.groups + 1));
  for (int64_t e = 0; e <= s.groups; ++e) offsets[static_cast<std::size_t>(e)] = e * s.rows;
  const int64_t rows = s.groups * s.rows;
  const std::vector<char> by_k = random_bytes(rows * s.k, type), by_n = random_bytes(rows * s.n, type);
  std::vector<char> out(static_cast<std::size_t>(rows * std::max(s.n, s.k) * size_of(type)));
  const double flop = 2.0 * double(rows) * double(s.n) * double(s.k);
  const auto report = [&](const char* form, double time) {
    std::printf("%-7s %-4s %-32s %-12s %8.3f ms %7.0f GFLOP/s\n", name(isa()),
                type == DType::bf16 ? "bf16" : "f32", s.name, form, 1e3 * time, 1e-9 * flop / time);
    std::fflush(stdout);
  };
  if (forms.find("nt") != std::string::npos) {
    const std::vector<char> w = random_bytes(s.groups * s.n * s.k, type);
    GroupedGemmParams p{type, type, s.groups, offsets.data(), s.n, s.k};
    p.w = w.data(), p.ldw = s.k, p.w_group_stride = s.n * s.k;
    p.a = by_k.data(), p.lda = s.k, p.c = out.data(), p.ldc = s.n;
    report("nt", best_time([&] { grouped_gemm_nt(p); }));
    p.a = by_n.data(), p.lda = s.n, p.ldc = s.k;
    report("nn", best_time([&] { grouped_gemm_nn(p); }));
  }
  std::vector<float> g(static_cast<std::size_t>(s.groups * s.n * s.k));
  GroupedGemmTnParams p{type, DType::f32, s.groups, offsets.data(), s.n, s.k};
  p.d = by_n.data(), p.ldd = s.n, p.x = by_k.data(), p.ldx = s.k;
  p.g = g.data(), p.ldg = s.k, p.g_group_stride = s.n * s.k;
  report("tn add", best_time([&] { grouped_gemm_tn(p); }));
  p.overwrite = true;
  report("tn replace", best_time([&] { grouped_gemm_tn(p); }));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) set_num_threads(std::atoi(argv[1]));
  const std::string only = argc > 2 ? argv[2] : "", type_name = argc > 3 ? argv[3] : "bf16";
  const DType type = type_name == "f32" ? DType::f32 : DType::bf16;
  for (Isa set : {Isa::avx2, Isa::avx512, Isa::amx}) {
    if (!is_supported(set) || (!only.empty() && only != name(set))) continue;
    force_isa(set);
    for (const Shape& shape : {Shape{"16 x 512 rows, 256 x 256", 16, 512, 256, 256, "nt nn tn"},
                               Shape{"16 x 512 rows, 256 x 128", 16, 512, 256, 128, "nt nn tn"},
                               Shape{"32 x 128 rows, 1024 x 1024", 32, 128, 1024, 1024, "nt nn tn"},
                               Shape{"32 x 128 rows, 1024 x 512", 32, 128, 1024, 512, "nt nn tn"},
                               Shape{"2048 rows, 2048 x 2048", 1, 2048, 2048, 2048, "nt nn tn"},
                               Shape{"head 512 rows, 129280 x 256", 1, 512, 129280, 256, "tn"},
                               Shape{"head 512 rows, 129280 x 1024", 1, 512, 129280, 1024, "tn"}})
      measure(shape, type);
  }
}

#include "kernels/isa.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

#include "base/error.h"

namespace fathom::kernels {
namespace {

// The tiles' state is large, so Linux gives it only to processes that ask.
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

bool has_amx() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  const bool has_tiles =
      (edx >> 22 & 1) && (edx >> 24 & 1) && (edx >> 25 & 1);  // AMX-BF16, AMX-TILE, AMX-INT8
  return has_tiles && may_use_tiles();
}

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}

Isa choose() {
  if (const char* forced = std::getenv("FATHOM_ISA"); forced && *forced) {
    const Isa wanted = parse_isa(forced);
    if (!is_supported(wanted)) throw ConfigError("FATHOM_ISA={}: this processor does not have it", forced);
    return wanted;
  }
  if (is_supported(Isa::amx)) return Isa::amx;
  if (is_supported(Isa::avx512)) return Isa::avx512;
  if (is_supported(Isa::avx2)) return Isa::avx2;
  return Isa::reference;
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> value{choose()};
  return value;
}

}  // namespace

Isa isa() { return current().load(std::memory_order_relaxed); }

void force_isa(Isa forced) {
  if (!is_supported(forced))
    throw ConfigError("instruction set {}: this processor does not have it", name(forced));
  current().store(forced);
}

bool is_supported(Isa candidate) {
  switch (candidate) {
    case Isa::aten:
    case Isa::reference:
      return true;
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi2");
    case Isa::avx512:
      return has_avx512();
    case Isa::amx:
      return has_avx512() && has_amx();
  }
  return false;
}

Isa parse_isa(const std::string& text) {
  for (Isa candidate : {Isa::aten, Isa::reference, Isa::avx2, Isa::avx512, Isa::amx})
    if (text == name(candidate)) return candidate;
  throw ConfigError("instruction set \"{}\": use aten, reference, avx2, avx512 or amx", text);
}

const char* name(Isa which) {
  switch (which) {
    case Isa::aten:
      return "aten";
    case Isa::reference:
      return "reference";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::amx:
      return "amx";
  }
  return "?";
}

}  // namespace fathom::kernels

// Which body of the kernels runs. Chosen once from what the processor has;
// FATHOM_ISA=aten|reference|avx2|avx512|amx forces one (a set that the processor lacks is a ConfigError).
//   aten       compositions of ATen operations in ops/: any device and dtype; never reaches kernels/
//   reference  plain loops, the specification
//   avx2       the floor of the fast bodies
//   avx512     AVX-512 F/BW/DQ/VL + BF16 + VNNI
//   amx        as avx512, with tile products where a kernel has them
#pragma once

#include <string>

namespace fathom::kernels {

enum class Isa { aten, reference, avx2, avx512, amx };

Isa isa();                   // the set in force
void force_isa(Isa forced);  // tests and --isa; throws ConfigError where the processor lacks it
bool is_supported(Isa candidate);
Isa parse_isa(const std::string& name);  // throws ConfigError
const char* name(Isa which);

}  // namespace fathom::kernels

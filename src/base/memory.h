// Memory of this process and this machine, in bytes, from /proc.
#pragma once

#include <cstdint>

namespace fathom {

uint64_t resident_bytes();            // VmRSS
uint64_t peak_resident_bytes();       // VmHWM
uint64_t anonymous_resident_bytes();  // RssAnon: without mapped files
uint64_t total_memory_bytes();        // of the machine, or of the cgroup where that is less

}  // namespace fathom

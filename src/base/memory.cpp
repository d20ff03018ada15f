#include "base/memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace fathom {
namespace {

uint64_t status_kib(const std::string& key) {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    if (word == key + ":") {
      uint64_t kib = 0;
      status >> kib;
      return kib * 1024;
    }
  }
  return 0;
}

}  // namespace

uint64_t resident_bytes() { return status_kib("VmRSS"); }
uint64_t peak_resident_bytes() { return status_kib("VmHWM"); }
uint64_t anonymous_resident_bytes() { return status_kib("RssAnon"); }

uint64_t total_memory_bytes() {
  const uint64_t machine =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGE_SIZE));
  std::ifstream limit("/sys/fs/cgroup/memory.max");
  uint64_t bytes = 0;
  if (limit >> bytes) return std::min(machine, bytes);
  return machine;
}

}  // namespace fathom

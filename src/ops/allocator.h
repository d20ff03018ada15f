// The CPU allocator behind every tensor. Training frees and asks for the same large blocks each step; the C library
// would give them back to the kernel and fault every page in again. Blocks of 1 MiB and more are kept for reuse, on
// huge pages where the kernel grants them.
#pragma once

#include <cstdint>

namespace fathom::ops {

// Replaces c10's CPU allocator; idempotent. Call before the first large tensor is made.
void install_caching_allocator();

struct AllocatorStatistics {
  uint64_t live_bytes = 0;    // large blocks handed out
  uint64_t cached_bytes = 0;  // large blocks kept for reuse
};
AllocatorStatistics allocator_statistics();

// Gives cached blocks, and free pages of the C library's heap, back to the kernel.
void trim_allocator_cache();

}  // namespace fathom::ops

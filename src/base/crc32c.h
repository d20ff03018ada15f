// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78; RFC 3720 appendix B.4), for record framing.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fathom {

// Of `bytes` bytes at `data` (null allowed for 0 bytes). `previous` is the checksum of what went before, so a
// text may be fed in pieces. Uses the CPU's own instruction where the build's floor has it (x86-64-v2 does).
uint32_t crc32c(const void* data, size_t bytes, uint32_t previous = 0);

// The same from a table, a byte at a time: the specification of the above.
uint32_t crc32c_reference(const void* data, size_t bytes, uint32_t previous = 0);

}  // namespace fathom

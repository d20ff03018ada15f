// The address by which another host reaches this one.
#pragma once

#include <cstdint>
#include <string>

namespace fathom::parallel {

// Of the interface that packets to host:port would leave by (no packet is sent). Throws DistributedError: the name does
// not resolve, or no route.
std::string local_address_towards(const std::string& host, uint16_t port);

}  // namespace fathom::parallel

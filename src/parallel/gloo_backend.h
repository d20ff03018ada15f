// The CPU backend of c10d. Gloo's own headers are seen by gloo_backend.cpp alone: the ones that Debian ships are older
// than the Gloo inside LibTorch, so no Gloo object is called here, only made and handed on.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace fathom::parallel {

// `address`: the local address that the others reach this rank by. Blocks until all of the group are there. Throws what
// c10d throws.
std::shared_ptr<c10d::Backend> make_gloo_backend(const std::shared_ptr<c10d::Store>& store, int64_t place,
                                                 int64_t size, const std::string& address,
                                                 std::chrono::milliseconds timeout);

}  // namespace fathom::parallel

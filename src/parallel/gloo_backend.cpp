#include "parallel/gloo_backend.h"

// The wheel has Gloo in it; only its headers ask.
#define USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "parallel/c10d_pointer.h"

namespace fathom::parallel {

std::shared_ptr<c10d::Backend> make_gloo_backend(const std::shared_ptr<c10d::Store>& store, int64_t place,
                                                 int64_t size, const std::string& address,
                                                 std::chrono::milliseconds timeout) {
  auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(address));
  return as_shared<c10d::Backend>(c10::make_intrusive<c10d::ProcessGroupGloo>(
      as_intrusive(store), static_cast<int>(place), static_cast<int>(size), options));
}

}  // namespace fathom::parallel

// A group of one rank, for code that takes one.
#pragma once

#include "parallel/communicator.h"

namespace fathom::test {

inline parallel::Communicator& one_rank() {
  static parallel::Communicator group("data", {0}, 0, nullptr);
  return group;
}

}  // namespace fathom::test

// c10d's store answers its clients through sockets that raise SIGPIPE: without this a rank that dies while it waits for a
// note would take the process that holds the store, the launcher or rank 0, with it. Writing then fails with an error.
#pragma once

#include <csignal>

namespace fathom::parallel {

inline void ignore_broken_pipes() { std::signal(SIGPIPE, SIG_IGN); }

}  // namespace fathom::parallel

// fathom launch: the ranks of this machine as processes, watched until they are done. Several machines find each other
// by the store that the first one's launcher holds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fathom::parallel {

struct LaunchOptions {
  int64_t ranks = 1;  // on this machine
  int64_t nodes = 1, node_rank = 0;
  std::string master_host = "127.0.0.1";
  uint16_t master_port = 0;  // 0: a free one (one machine only)
  int64_t max_restarts = 3;
  double silence_seconds = 60;       // a rank that does not count for so long is taken for dead
  std::vector<std::string> command;  // program and arguments of each rank
};

// Starts the ranks and waits. Rank 0 has this terminal; of the others, warnings and errors are shown with their rank in
// front. SIGINT and SIGTERM go on to the ranks, once each. When a rank ends badly or falls silent, the others (on every
// machine) are killed, what it was doing is said, and all start again, at most max_restarts times and only after an
// attempt that did steps: a run that fails before its first step would fail again. No rank outlives the launcher.
// Returns the exit code: 0, or that of the rank that failed first. Throws DistributedError: the machines do not find
// each other; FileError.
int launch(const LaunchOptions& options);

}  // namespace fathom::parallel

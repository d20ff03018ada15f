// Which rank this process is, from the environment that started it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace fathom::parallel {

struct LaunchEnvironment {
  std::string launcher;  // "fathom launch", "torchrun", "Slurm", "Open MPI", "none"
  int64_t rank = 0, world_size = 1;
  int64_t local_rank = 0, local_world_size = 1;  // among the ranks of this host
  std::string master_host;                       // where the store of the rendezvous listens
  uint16_t master_port = 0;
  bool launcher_has_store = false;  // the launcher's process listens there; else rank 0 does
  int64_t restart = 0;              // how often these ranks were started again
};

// Reads, in this order: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT (`fathom launch` and
// torchrun set them; TORCHELASTIC_USE_AGENT_STORE says that the agent has the store), SLURM_PROCID with SLURM_NTASKS > 1
// in a job step, OMPI_COMM_WORLD_RANK. None of them: one rank. Under Slurm and Open MPI several hosts need MASTER_ADDR
// (Slurm: the first name of SLURM_STEP_NODELIST will do), the port is MASTER_PORT, or made of the job's number.
// `get`: as std::getenv. Throws ConfigError naming the variable that is missing or no number.
LaunchEnvironment read_launch_environment(
    const std::function<std::optional<std::string>(const std::string&)>& get);
LaunchEnvironment read_launch_environment();  // of this process

// "node[03-05,9],x" -> "node03".
std::string first_of_nodelist(const std::string& list);

}  // namespace fathom::parallel

#include "parallel/launch_environment.h"

#include <charconv>
#include <cstdlib>

#include "base/error.h"

namespace fathom::parallel {
namespace {

using Get = std::function<std::optional<std::string>(const std::string&)>;

constexpr uint16_t kFirstPort = 29500, kPorts = 16000;  // for launchers that give a job number and no port

int64_t number(const Get& get, const std::string& variable, std::optional<int64_t> otherwise = std::nullopt) {
  const std::optional<std::string> text = get(variable);
  if (!text) {
    if (otherwise) return *otherwise;
    throw ConfigError(
        "environment: {} is not set: start the ranks with fathom launch, torchrun, srun or mpirun", variable);
  }
  int64_t value = -1;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size() || value < 0)
    throw ConfigError("environment: {}={} is no number", variable, *text);
  return value;
}

std::string first_host(const Get& get, const std::string& of_launcher, int64_t nodes) {
  if (const auto host = get("MASTER_ADDR")) return *host;
  if (!of_launcher.empty()) return first_of_nodelist(of_launcher);
  if (nodes <= 1) return "127.0.0.1";
  throw ConfigError(
      "environment: MASTER_ADDR is not set: several hosts need the name or address of the first");
}

uint16_t port(const Get& get, int64_t job) {
  const int64_t value = number(get, "MASTER_PORT", kFirstPort + job % kPorts);
  if (value == 0 || value > 65535) throw ConfigError("environment: MASTER_PORT={} is no port", value);
  return static_cast<uint16_t>(value);
}

void check(const LaunchEnvironment& e) {
  if (e.world_size < 1 || e.rank >= e.world_size)
    throw ConfigError("environment: rank {} of {} ({}): ranks count from 0", e.rank, e.world_size,
                      e.launcher);
  if (e.local_world_size < 1 || e.local_rank >= e.local_world_size)
    throw ConfigError("environment: local rank {} of {} ({})", e.local_rank, e.local_world_size, e.launcher);
}

}  // namespace

std::string first_of_nodelist(const std::string& list) {
  // The first name ends at a comma outside brackets; of the first range in brackets the first number counts.
  std::string name;
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i] == ',') break;
    if (list[i] != '[') {
      name += list[i];
      continue;
    }
    const size_t close = list.find(']', i);
    name += list.substr(i + 1, list.find_first_of("],-", i + 1) - i - 1);
    if (close == std::string::npos) break;
    i = close;
  }
  return name;
}

LaunchEnvironment read_launch_environment(const Get& get) {
  LaunchEnvironment e;
  e.launcher = "none";
  if (get("RANK") && get("WORLD_SIZE")) {
    e.launcher = get("FATHOM_LAUNCH") ? "fathom launch" : get("TORCHELASTIC_RUN_ID") ? "torchrun" : "RANK";
    e.rank = number(get, "RANK");
    e.world_size = number(get, "WORLD_SIZE");
    e.local_rank = number(get, "LOCAL_RANK", e.rank);
    e.local_world_size = number(get, "LOCAL_WORLD_SIZE", e.world_size);
    e.master_host = e.world_size == e.local_world_size ? get("MASTER_ADDR").value_or("127.0.0.1")
                                                       : first_host(get, "", 2);
    e.master_port = port(get, 0);
    e.launcher_has_store = get("TORCHELASTIC_USE_AGENT_STORE") == "True";
    e.restart = number(get, "TORCHELASTIC_RESTART_COUNT", 0);
  } else if (get("SLURM_PROCID") && number(get, "SLURM_NTASKS", 1) > 1) {
    e.launcher = "Slurm";
    e.rank = number(get, "SLURM_PROCID");
    e.world_size = number(get, "SLURM_NTASKS");
    e.local_rank = number(get, "SLURM_LOCALID", 0);
    const int64_t nodes = number(get, "SLURM_STEP_NUM_NODES", number(get, "SLURM_NNODES", 1));
    // "4(x2),3": the tasks of each node; where nodes differ SLURM_NTASKS_PER_NODE does not say it
    const std::string per_node = get("SLURM_STEP_TASKS_PER_NODE").value_or("");
    int64_t tasks = 0;
    std::from_chars(per_node.data(), per_node.data() + per_node.size(), tasks);
    e.local_world_size = std::max(tasks > 0 ? tasks : (e.world_size + nodes - 1) / nodes, e.local_rank + 1);
    e.master_host =
        first_host(get, get("SLURM_STEP_NODELIST").value_or(get("SLURM_JOB_NODELIST").value_or("")), nodes);
    e.master_port = port(get, number(get, "SLURM_JOB_ID", 0));
    e.restart = number(get, "SLURM_RESTART_COUNT", 0);
  } else if (get("OMPI_COMM_WORLD_RANK")) {
    e.launcher = "Open MPI";
    e.rank = number(get, "OMPI_COMM_WORLD_RANK");
    e.world_size = number(get, "OMPI_COMM_WORLD_SIZE");
    e.local_rank = number(get, "OMPI_COMM_WORLD_LOCAL_RANK", e.rank);
    e.local_world_size = number(get, "OMPI_COMM_WORLD_LOCAL_SIZE", e.world_size);
    e.master_host = first_host(get, "", e.local_world_size == e.world_size ? 1 : 2);
    e.master_port = port(get, 0);
  }
  check(e);
  return e;
}

LaunchEnvironment read_launch_environment() {
  return read_launch_environment([](const std::string& variable) -> std::optional<std::string> {
    const char* value = std::getenv(variable.c_str());
    return value && *value ? std::optional<std::string>(value) : std::nullopt;
  });
}

}  // namespace fathom::parallel

// Runs a function on N real processes that form one world, for tests.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <functional>
#include <vector>

#include "parallel/world.h"

namespace fathom::parallel {

inline uint16_t free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ::bind(socket, reinterpret_cast<sockaddr*>(&address), size);
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
  ::close(socket);
  return ntohs(address.sin_port);
}

// Every rank's exit code: 0 where `body` returned true; 3 where it threw (the message goes to stderr). Processes are
// forked before this one has threads of its own, and die with it.
inline std::vector<int> exit_codes(const config::ParallelSection& section,
                                   const std::function<bool(World&)>& body) {
  const int64_t size = RankLayout(section).world_size();
  const uint16_t port = free_port();
  std::vector<pid_t> processes;
  for (int64_t rank = 0; rank < size; ++rank) {
    const pid_t process = ::fork();
    if (process == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      int code = 3;
      try {
        LaunchEnvironment environment;
        environment.rank = environment.local_rank = rank;
        environment.world_size = environment.local_world_size = size;
        environment.master_host = "127.0.0.1";
        environment.master_port = port;
        World world(environment, section);
        code = body(world) && !::testing::Test::HasFailure() ? 0 : 1;
        world.along(Dimension::world).barrier();  // rank 0 holds the store
      } catch (const std::exception& error) {
        std::fprintf(stderr, "rank %d: %s\n", static_cast<int>(rank), error.what());
      }
      std::fflush(nullptr);
      ::_exit(code);
    }
    processes.push_back(process);
  }
  std::vector<int> codes;
  for (const pid_t process : processes) {
    int status = 0;
    ::waitpid(process, &status, 0);
    codes.push_back(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  }
  return codes;
}

inline void run_ranks(const config::ParallelSection& section, const std::function<bool(World&)>& body) {
  for (const int code : exit_codes(section, body)) EXPECT_EQ(code, 0);
}

inline config::ParallelSection data_ranks(int64_t data) {
  config::ParallelSection section;
  section.data = data;
  section.timeout_s = 60;
  return section;
}

}  // namespace fathom::parallel

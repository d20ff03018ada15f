#include "parallel/launcher.h"

#include <fmt/format.h>
#include <poll.h>

#include <chrono>
#include <csignal>
#include <memory>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/host_name.h"
#include "base/log.h"
#include "base/stop_signal.h"
#include "parallel/launch_store.h"
#include "parallel/rank_process.h"

namespace fathom::parallel {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPollInterval = std::chrono::milliseconds(100);
constexpr auto kStoreInterval = std::chrono::milliseconds(500);

struct Failure {
  int code = 1;
  std::string what;  // one line
  bool was_training = false;
};

// One life of all ranks of this machine.
class Attempt {
 public:
  Attempt(const LaunchOptions& options, LaunchStore& store, int64_t number)
      : options_(options), store_(store), number_(number) {
    const int64_t first = options.node_rank * options.ranks;
    for (int64_t local = 0; local < options.ranks; ++local) {
      const int64_t rank = first + local;
      ranks_.push_back(std::make_unique<RankProcess>(
          rank, options.command,
          std::map<std::string, std::string>{{"FATHOM_LAUNCH", "1"},
                                             {"RANK", std::to_string(rank)},
                                             {"WORLD_SIZE", std::to_string(options.nodes * options.ranks)},
                                             {"LOCAL_RANK", std::to_string(local)},
                                             {"LOCAL_WORLD_SIZE", std::to_string(options.ranks)},
                                             {"MASTER_ADDR", options.master_host},
                                             {"MASTER_PORT", std::to_string(store.port())},
                                             {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                             {"TORCHELASTIC_RESTART_COUNT", std::to_string(number)}},
          /*keeps_terminal=*/rank == 0));
    }
  }

  // Until all ranks of this machine ended well (nullopt) or one anywhere failed.
  std::optional<Failure> watch() {
    Clock::time_point asked_store = Clock::now();
    for (;;) {
      wait_for_output();
      pass_signals();
      if (auto failure = local_failure()) {
        if (!was_stopped_) store_.report_failure(number_, failure->what);
        return failure;
      }
      if (all_ended()) return std::nullopt;
      if (Clock::now() - asked_store > kStoreInterval) {
        asked_store = Clock::now();
        if (const auto what = store_.failure(number_)) return Failure{1, *what, was_training()};
      }
    }
  }

 private:
  void wait_for_output() {
    std::vector<pollfd> descriptors;
    std::vector<RankProcess*> readers;
    for (const auto& rank : ranks_)
      if (rank->output() >= 0) {
        descriptors.push_back({rank->output(), POLLIN, 0});
        readers.push_back(rank.get());
      }
    ::poll(descriptors.data(), descriptors.size(), static_cast<int>(kPollInterval.count()));
    for (size_t i = 0; i < readers.size(); ++i)
      if (descriptors[i].revents != 0) readers[i]->read_output();
  }

  void pass_signals() {
    if (!stop_requested() || was_stopped_) return;
    was_stopped_ = true;  // a second one ends this process, and the ranks with it
    for (const auto& rank : ranks_) rank->signal(stop_signal_number());
  }

  bool was_training() const {
    for (const auto& rank : ranks_)
      if (rank->has_done_a_step()) return true;
    return false;
  }
  bool all_ended() {
    for (const auto& rank : ranks_)
      if (!rank->poll_end()) return false;
    return true;
  }

  std::string where(const RankProcess& rank) const {
    return rank.step() >= 0 ? fmt::format("at step {}, {}", rank.step(), rank.doing())
                            : "before its first step";
  }

  std::optional<Failure> local_failure() {
    for (const auto& rank : ranks_) {
      const std::optional<int> code = rank->poll_end();
      if (code && *code != 0) {
        if (rank->output() >= 0) rank->read_output();
        std::string what = fmt::format("rank {} on {} {} ({})", rank->rank(), host_name(),
                                       rank->end_in_words(), where(*rank));
        for (const std::string& line : rank->last_lines())
          if (line.starts_with("error: ")) what += ": " + line.substr(7);
        return Failure{*code, what, was_training()};
      }
      if (!code && rank->silence_seconds() > options_.silence_seconds)
        return Failure{
            1,
            fmt::format("rank {} on {} has shown no life for {:.0f} s ({}): it is stopped, or its machine is",
                        rank->rank(), host_name(), options_.silence_seconds, where(*rank)),
            was_training()};
    }
    return std::nullopt;
  }

  const LaunchOptions& options_;
  LaunchStore& store_;
  int64_t number_;
  bool was_stopped_ = false;
  std::vector<std::unique_ptr<RankProcess>> ranks_;
};

}  // namespace

int launch(const LaunchOptions& options) {
  LaunchStore store(options.master_host, options.master_port, options.nodes, options.node_rank,
                    options.silence_seconds);
  for (int64_t attempt = 0;; ++attempt) {
    store.meet(attempt);
    std::optional<Failure> failure;
    {
      Attempt life(options, store, attempt);
      failure = life.watch();
    }  // kills what is left
    if (!failure) {
      if (const auto elsewhere = store.finish(attempt)) failure = Failure{1, *elsewhere, true};
    }
    if (!failure) return 0;
    if (stop_requested()) return failure->code;
    log::error("{}", failure->what);
    if (failure->code == 2 || !failure->was_training || attempt >= options.max_restarts) {
      if (failure->was_training && attempt >= options.max_restarts && options.max_restarts > 0)
        log::error("given up after {} restarts; the same command goes on from the newest checkpoint",
                   attempt);
      store.give_up(attempt);
      return failure->code;
    }
    if (store.has_given_up(attempt)) return failure->code;
    log::info("starting all ranks again ({} of {} restarts)", attempt + 1, options.max_restarts);
  }
}

}  // namespace fathom::parallel

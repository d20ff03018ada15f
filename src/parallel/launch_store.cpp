#include "parallel/launch_store.h"

#include <fmt/format.h>

#include <chrono>
#include <thread>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <vector>

#include "base/error.h"
#include "base/stop_signal.h"
#include "parallel/c10d_pointer.h"

namespace fathom::parallel {
namespace {

constexpr auto kTimeout = std::chrono::seconds(300);
constexpr auto kInterval = std::chrono::milliseconds(200);

std::vector<uint8_t> bytes(const std::string& text) { return {text.begin(), text.end()}; }

}  // namespace

LaunchStore::LaunchStore(const std::string& host, uint16_t port, int64_t nodes, int64_t node_rank)
    : nodes_(nodes), node_rank_(node_rank) {
  c10d::TCPStoreOptions options;
  options.port = port;
  options.isServer = node_rank == 0;
  options.waitWorkers = false;
  options.timeout = kTimeout;
  try {
    const auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
    port_ = store->getPort();
    store_ = as_shared<c10d::Store>(store);
  } catch (const std::exception& error) {
    throw DistributedError("cannot {} {}:{}: {}", node_rank == 0 ? "listen on" : "reach the first machine at",
                           host, port, std::string(error.what()).substr(0, 160));
  }
}

LaunchStore::~LaunchStore() = default;

std::string LaunchStore::key(const char* what, int64_t attempt) const {
  return fmt::format("launch/{}/{}", attempt, what);
}

bool LaunchStore::is_set(const std::string& name) { return store_->check({name}); }
int64_t LaunchStore::count(const std::string& name, int64_t added) { return store_->add(name, added); }

void LaunchStore::meet(int64_t attempt) {
  if (nodes_ == 1) return;
  const std::string name = key("here", attempt);
  int64_t here = count(name, 1);
  const auto start = std::chrono::steady_clock::now();
  while (here < nodes_) {
    if (stop_requested()) throw DistributedError("stopped while {} of {} machines were here", here, nodes_);
    if (std::chrono::steady_clock::now() - start > kTimeout)
      throw DistributedError(
          "{} of {} machines came within {} s: start fathom launch on each, with --node-rank 0 to {}", here,
          nodes_, kTimeout.count(), nodes_ - 1);
    std::this_thread::sleep_for(kInterval);
    here = count(name, 0);
  }
}

void LaunchStore::report_failure(int64_t attempt, const std::string& what) {
  if (nodes_ == 1) return;
  store_->compareSet(key("failed", attempt), {}, bytes(what));
}

std::optional<std::string> LaunchStore::failure(int64_t attempt) {
  if (nodes_ == 1 || !is_set(key("failed", attempt))) return std::nullopt;
  const std::vector<uint8_t> what = store_->get(key("failed", attempt));
  return std::string(what.begin(), what.end());
}

std::optional<std::string> LaunchStore::finish(int64_t attempt) {
  if (nodes_ == 1) return std::nullopt;
  const std::string name = key("done", attempt);
  for (int64_t done = count(name, 1); done < nodes_; done = count(name, 0)) {
    if (auto what = failure(attempt)) return what;
    std::this_thread::sleep_for(kInterval);
  }
  // The first machine's store must outlive the others' last question.
  const std::string seen = key("seen", attempt);
  int64_t parted = count(seen, 1);
  while (node_rank_ == 0 && parted < nodes_) {
    std::this_thread::sleep_for(kInterval);
    parted = count(seen, 0);
  }
  return std::nullopt;
}

void LaunchStore::give_up(int64_t attempt) {
  if (nodes_ > 1) store_->set(key("given_up", attempt), bytes("1"));
}

bool LaunchStore::has_given_up(int64_t attempt) { return nodes_ > 1 && is_set(key("given_up", attempt)); }

}  // namespace fathom::parallel

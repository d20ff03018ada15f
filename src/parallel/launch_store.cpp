#include "parallel/launch_store.h"

#include <fmt/format.h>

#include <chrono>
#include <exception>
#include <future>
#include <memory>
#include <thread>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <vector>

#include "base/error.h"
#include "base/stop_signal.h"
#include "parallel/broken_pipe.h"
#include "parallel/c10d_pointer.h"

namespace fathom::parallel {
namespace {

constexpr auto kTimeout = std::chrono::seconds(300);
constexpr auto kInterval = std::chrono::milliseconds(200);

std::vector<uint8_t> bytes(const std::string& text) { return {text.begin(), text.end()}; }

}  // namespace

LaunchStore::LaunchStore(const std::string& host, uint16_t port, int64_t nodes, int64_t node_rank,
                         double silence_seconds)
    : nodes_(nodes),
      node_rank_(node_rank),
      address_(fmt::format("{}:{}", host, port)),
      silence_seconds_(silence_seconds) {
  ignore_broken_pipes();
  c10d::TCPStoreOptions options;
  options.port = port;
  options.isServer = node_rank == 0;
  options.waitWorkers = false;
  options.timeout = kTimeout;
  try {
    // By a thread of its own: it waits for the first machine, and a person may tire of that.
    const auto made = std::make_shared<std::promise<c10::intrusive_ptr<c10d::TCPStore>>>();
    auto future = made->get_future();
    std::thread([host, options, made] {
      try {
        made->set_value(c10::make_intrusive<c10d::TCPStore>(host, options));
      } catch (...) {
        made->set_exception(std::current_exception());
      }
    }).detach();
    while (future.wait_for(kInterval) != std::future_status::ready)
      if (stop_requested()) throw DistributedError("stopped while waiting");
    const auto store = future.get();
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

template <typename T>
T LaunchStore::ask(std::function<T(c10d::Store&)> question) {
  const auto answer = std::make_shared<std::promise<T>>();
  std::future<T> future = answer->get_future();
  std::thread([store = store_, question = std::move(question), answer] {
    try {
      answer->set_value(question(*store));
    } catch (...) {
      answer->set_exception(std::current_exception());
    }
  }).detach();
  if (future.wait_for(std::chrono::duration<double>(silence_seconds_)) != std::future_status::ready)
    throw DistributedError(
        "the launcher of the first machine ({}) has not answered for {:.0f} s: it is gone, or the "
        "link to it is cut",
        address_, silence_seconds_);
  try {
    return future.get();
  } catch (const std::exception& error) {
    throw DistributedError("the launcher of the first machine ({}) is gone: {}", address_,
                           std::string(error.what()).substr(0, 120));
  }
}

bool LaunchStore::is_set(const std::string& name) {
  return ask<bool>([name](c10d::Store& store) { return store.check({name}); });
}
int64_t LaunchStore::count(const std::string& name, int64_t added) {
  return ask<int64_t>([name, added](c10d::Store& store) { return store.add(name, added); });
}

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
  ask<bool>([name = key("failed", attempt), what](c10d::Store& store) {
    store.compareSet(name, {}, bytes(what));
    return true;
  });
}

std::optional<std::string> LaunchStore::failure(int64_t attempt) {
  if (nodes_ == 1 || !is_set(key("failed", attempt))) return std::nullopt;
  const auto what = ask<std::vector<uint8_t>>(
      [name = key("failed", attempt)](c10d::Store& store) { return store.get(name); });
  return std::string(what.begin(), what.end());
}

std::optional<std::string> LaunchStore::finish(int64_t attempt) {
  if (nodes_ == 1) return std::nullopt;
  const std::string name = key("done", attempt);
  const auto start = std::chrono::steady_clock::now();
  const auto is_late = [&] { return std::chrono::steady_clock::now() - start > kTimeout; };
  for (int64_t done = count(name, 1); done < nodes_; done = count(name, 0)) {
    if (is_late())
      return fmt::format("the ranks here are done, but {} of {} machines never said so", nodes_ - done,
                         nodes_);
    if (auto what = failure(attempt)) return what;
    std::this_thread::sleep_for(kInterval);
  }
  // The first machine's store must outlive the others' last question.
  const std::string seen = key("seen", attempt);
  int64_t parted = count(seen, 1);
  while (node_rank_ == 0 && parted < nodes_ && !is_late()) {
    std::this_thread::sleep_for(kInterval);
    parted = count(seen, 0);
  }
  return std::nullopt;
}

void LaunchStore::give_up(int64_t attempt) {
  if (nodes_ == 1) return;
  ask<bool>([name = key("given_up", attempt)](c10d::Store& store) {
    store.set(name, bytes("1"));
    return true;
  });
}

bool LaunchStore::has_given_up(int64_t attempt) { return nodes_ > 1 && is_set(key("given_up", attempt)); }

}  // namespace fathom::parallel

// What the launchers of several machines tell each other: that an attempt begins, failed, or is done. The first
// machine's launcher holds the store; its ranks use the same one to find each other.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace c10d {
class Store;
}

namespace fathom::parallel {

class LaunchStore {
 public:
  // port 0: a free one, on one machine. Throws DistributedError: the address is taken, or nobody answers there; and so
  // does every function below when the store has not answered for silence_seconds (a cut link gives no other sign).
  LaunchStore(const std::string& host, uint16_t port, int64_t nodes, int64_t node_rank,
              double silence_seconds);
  ~LaunchStore();

  uint16_t port() const { return port_; }
  // Waits until every machine is at this attempt. Throws DistributedError naming how many are missing.
  void meet(int64_t attempt);
  void report_failure(int64_t attempt, const std::string& what);  // the first one counts
  std::optional<std::string> failure(int64_t attempt);
  // This machine's ranks are done: waits for the others'. What failed there, if something did.
  std::optional<std::string> finish(int64_t attempt);
  void give_up(int64_t attempt);
  bool has_given_up(int64_t attempt);

 private:
  bool is_set(const std::string& key);
  int64_t count(const std::string& key, int64_t added);
  std::string key(const char* what, int64_t attempt) const;
  // `question` asked of the store by a thread of its own, which may never come back.
  template <typename T>
  T ask(std::function<T(c10d::Store&)> question);
  int64_t nodes_, node_rank_;
  std::string address_;
  double silence_seconds_;
  uint16_t port_ = 0;
  std::shared_ptr<c10d::Store> store_;
};

}  // namespace fathom::parallel

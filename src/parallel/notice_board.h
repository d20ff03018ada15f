// Notes that ranks leave for each other beside the collectives. Waiting for one has no time-out of its own, so a rank may
// take as long as its disk does; only a rank that shows no life any more ends the wait. Any thread may use it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace c10d {
class Store;
}

namespace fathom::parallel {

class NoticeBoard {
 public:
  NoticeBoard() = default;  // of one rank
  // All ranks share `store`. Each shows its life there every two seconds; one that has not for patience_seconds ends
  // every wait for it.
  NoticeBoard(std::shared_ptr<c10d::Store> store, int64_t rank, int64_t size, double patience_seconds);
  ~NoticeBoard();
  NoticeBoard(const NoticeBoard&) = delete;
  NoticeBoard& operator=(const NoticeBoard&) = delete;

  int64_t rank() const { return rank_; }
  int64_t size() const { return size_; }
  bool is_first() const { return rank_ == 0; }

  // All of them throw DistributedError when the store is gone.
  void post(const std::string& key, const std::string& text);
  std::optional<std::string> look(const std::string& key);
  // Waits for the note that rank `from` will post. Throws DistributedError naming the rank and the key when it shows no
  // life.
  std::string read(const std::string& key, int64_t from);
  void erase(const std::string& key);
  // Until every rank is here. All ranks meet in the same order; `what` is for messages.
  void meet(const std::string& what);

 private:
  int64_t count(const std::string& key, int64_t added);
  void show_life();
  class Patience;  // with one rank that is waited for

  std::shared_ptr<c10d::Store> store_;
  int64_t rank_ = 0, size_ = 1;
  double patience_seconds_ = 0;
  int64_t meetings_ = 0;
  std::mutex mutex_;
  std::map<std::string, std::string> own_;  // notes of one rank
  std::condition_variable ended_;
  bool is_ending_ = false;
  std::thread life_;
};

}  // namespace fathom::parallel

#include "parallel/notice_board.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

#include "base/error.h"
#include "parallel/heartbeat.h"

namespace fathom::parallel {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kLifeInterval = std::chrono::seconds(2);
constexpr auto kFirstPause = std::chrono::milliseconds(1), kLongestPause = std::chrono::milliseconds(200);

std::string life_key(int64_t rank) { return fmt::format("life/{}", rank); }

template <typename Question>
auto ask(int64_t rank, const std::string& key, const Question& question) {
  try {
    return question();
  } catch (const std::exception& error) {
    throw DistributedError("rank {}: the store that the ranks share does not answer (note \"{}\"): {}", rank,
                           key, std::string(error.what()).substr(0, 160));
  }
}

}  // namespace

NoticeBoard::NoticeBoard(std::shared_ptr<c10d::Store> store, int64_t rank, int64_t size,
                         double patience_seconds)
    : store_(std::move(store)), rank_(rank), size_(size), patience_seconds_(patience_seconds) {
  FATHOM_ASSERT((store_ != nullptr) == (size > 1));
  if (store_) life_ = std::thread([this] { show_life(); });
}

NoticeBoard::~NoticeBoard() {
  {
    const std::lock_guard lock(mutex_);
    is_ending_ = true;
  }
  ended_.notify_all();
  if (life_.joinable()) life_.join();
}

void NoticeBoard::show_life() {
  try {
    std::unique_lock lock(mutex_);
    while (!is_ending_) {
      lock.unlock();
      store_->add(life_key(rank_), 1);
      lock.lock();
      ended_.wait_for(lock, kLifeInterval, [this] { return is_ending_; });
    }
  } catch (const std::exception&) {  // the store is gone: whoever asks it next says so
  }
}

// Counts the time since a rank was last seen alive; asks every other second.
class NoticeBoard::Patience {
 public:
  Patience(NoticeBoard& board, int64_t rank) : board_(board), rank_(rank) {}

  void check(const std::string& what) {
    const Clock::time_point now = Clock::now();
    if (now - asked_at_ < kLifeInterval) return;
    asked_at_ = now;
    const int64_t life = board_.count(life_key(rank_), 0);
    if (life != life_) {
      life_ = life;
      alive_at_ = now;
      return;
    }
    const double silence = std::chrono::duration<double>(now - alive_at_).count();
    if (silence > board_.patience_seconds_)
      throw DistributedError(
          "rank {} waits for {} of rank {}, which has shown no life for {:.0f} s: it is stopped, dead, or "
          "cut off",
          board_.rank_, what, rank_, silence);
  }

 private:
  NoticeBoard& board_;
  int64_t rank_, life_ = -1;
  Clock::time_point asked_at_ = Clock::now(), alive_at_ = Clock::now();
};

void NoticeBoard::post(const std::string& key, const std::string& text) {
  if (store_)
    return ask(rank_, key, [&] { store_->set(key, std::vector<uint8_t>(text.begin(), text.end())); });
  const std::lock_guard lock(mutex_);
  own_[key] = text;
}

std::optional<std::string> NoticeBoard::look(const std::string& key) {
  if (!store_) {
    const std::lock_guard lock(mutex_);
    const auto found = own_.find(key);
    return found == own_.end() ? std::nullopt : std::optional(found->second);
  }
  return ask(rank_, key, [&]() -> std::optional<std::string> {
    if (!store_->check({key})) return std::nullopt;
    const std::vector<uint8_t> text = store_->get(key);
    return std::string(text.begin(), text.end());
  });
}

std::string NoticeBoard::read(const std::string& key, int64_t from) {
  Patience patience(*this, from);
  for (auto pause = kFirstPause;; pause = std::min(2 * pause, kLongestPause)) {
    if (const auto text = look(key)) return *text;
    FATHOM_ASSERT(store_ != nullptr);  // nobody else could post it
    std::this_thread::sleep_for(pause);
    patience.check(fmt::format("the note \"{}\"", key));
  }
}

void NoticeBoard::erase(const std::string& key) {
  if (store_) {
    ask(rank_, key, [&] { return store_->deleteKey(key); });
    return;
  }
  const std::lock_guard lock(mutex_);
  own_.erase(key);
}

int64_t NoticeBoard::count(const std::string& key, int64_t added) {
  return ask(rank_, key, [&] { return store_->add(key, added); });
}

void NoticeBoard::meet(const std::string& what) {
  if (!store_) return;
  const Heartbeat::InCollective mark("all ranks", "meeting");
  const auto key_of = [](int64_t meeting) { return fmt::format("meeting/{}", meeting); };
  const std::string key = key_of(meetings_), own = fmt::format("{}/{}", key, rank_);
  post(own, "");
  int64_t there = count(key, 1);
  int64_t missing = 0;  // the ranks below it have come
  std::unique_ptr<Patience> patience;
  for (auto pause = kFirstPause; there < size_; pause = std::min(2 * pause, kLongestPause)) {
    while (missing < size_ && look(fmt::format("{}/{}", key, missing))) {
      ++missing;
      patience = nullptr;
    }
    if (!patience && missing < size_) patience = std::make_unique<Patience>(*this, missing);
    std::this_thread::sleep_for(pause);
    if (patience) patience->check(what);
    there = count(key, 0);
  }
  // Who is here has left the meeting before.
  if (meetings_ > 0) erase(fmt::format("{}/{}", key_of(meetings_ - 1), rank_));
  if (meetings_ > 0 && is_first()) erase(key_of(meetings_ - 1));
  ++meetings_;
}

}  // namespace fathom::parallel

#include "base/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace fathom {
namespace {

thread_local bool inside_task = false;

// Workers wait for a job; a job is a counter of tasks that workers and the caller drain together.
class Pool {
 public:
  explicit Pool(int extra_threads) {
    for (int i = 0; i < extra_threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& t : workers_) t.join();
  }

  void run(int64_t num_tasks, const std::function<void(int64_t)>& task) {
    std::lock_guard one_job(job_mutex_);
    {
      std::lock_guard lock(mutex_);
      task_ = &task;
      num_tasks_ = num_tasks;
      next_.store(0);
      busy_ = static_cast<int>(workers_.size());
      ++generation_;
    }
    wake_.notify_all();
    drain(task, num_tasks);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  void drain(const std::function<void(int64_t)>& task, int64_t num_tasks) {
    inside_task = true;
    for (int64_t i = next_.fetch_add(1); i < num_tasks; i = next_.fetch_add(1)) task(i);
    inside_task = false;
  }
  void work() {
    uint64_t seen = 0;
    while (true) {
      const std::function<void(int64_t)>* task;
      int64_t num_tasks;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
        if (stopping_) return;
        seen = generation_;
        task = task_;
        num_tasks = num_tasks_;
      }
      drain(*task, num_tasks);
      std::lock_guard lock(mutex_);
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex job_mutex_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  const std::function<void(int64_t)>* task_ = nullptr;
  int64_t num_tasks_ = 0;
  std::atomic<int64_t> next_{0};
  int busy_ = 0;
  uint64_t generation_ = 0;
  bool stopping_ = false;
};

int allowed_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

struct State {
  std::mutex mutex;
  int threads = allowed_cores();
  ParallelBackend backend = nullptr;
  std::unique_ptr<Pool> pool;
};

State& state() {
  static State instance;
  return instance;
}

void run_on_own_pool(int64_t num_tasks, const std::function<void(int64_t)>& task) {
  Pool* pool;
  {
    std::lock_guard lock(state().mutex);
    if (!state().pool) state().pool = std::make_unique<Pool>(state().threads - 1);
    pool = state().pool.get();
  }
  pool->run(num_tasks, task);
}

}  // namespace

int num_threads() { return state().threads; }

void set_num_threads(int n) {
  std::lock_guard lock(state().mutex);
  const int wanted = n > 0 ? n : allowed_cores();
  if (wanted != state().threads) state().pool.reset();
  state().threads = wanted;
}

void set_parallel_backend(ParallelBackend backend) { state().backend = backend; }

void parallel_tasks(int64_t num_tasks, const std::function<void(int64_t)>& task) {
  if (num_tasks <= 0) return;
  if (num_tasks == 1 || inside_task || num_threads() == 1) {
    for (int64_t i = 0; i < num_tasks; ++i) task(i);
    return;
  }
  std::mutex failure_mutex;
  std::exception_ptr failure;
  const std::function<void(int64_t)> guarded = [&](int64_t i) {
    try {
      task(i);
    } catch (...) {
      std::lock_guard lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  if (state().backend) {
    state().backend(num_tasks, guarded);
  } else {
    run_on_own_pool(num_tasks, guarded);
  }
  if (failure) std::rethrow_exception(failure);
}

void parallel_for(int64_t begin, int64_t end, int64_t grain, const RangeFunction& fn) {
  const int64_t count = end - begin;
  if (count <= 0) return;
  grain = std::max<int64_t>(1, grain);
  const int64_t parts = std::min<int64_t>(num_threads(), (count + grain - 1) / grain);
  parallel_tasks(parts, [&](int64_t i) {
    const int64_t from = begin + count * i / parts, to = begin + count * (i + 1) / parts;
    if (from < to) fn(from, to);
  });
}

}  // namespace fathom

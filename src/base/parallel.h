// The one set of threads of the process. `parallel_for` cuts [begin, end) into at most num_threads() contiguous
// ranges of at least `grain` items and calls fn(range_begin, range_end) on each; cuts depend on the arguments and
// num_threads() only, so results that depend on them are reproducible. Exceptions reach the caller (the first one).
// Where LibTorch is linked, ops/runtime.cpp puts ATen's pool underneath.
#pragma once

#include <cstdint>
#include <functional>

namespace fathom {

using RangeFunction = std::function<void(int64_t, int64_t)>;
using ParallelBackend = void (*)(int64_t num_tasks, const std::function<void(int64_t)>& task);

int num_threads();
void set_num_threads(int n);  // n >= 1; 0 = physical cores allowed to this process
void set_parallel_backend(ParallelBackend backend);

void parallel_for(int64_t begin, int64_t end, int64_t grain, const RangeFunction& fn);
// Runs task(0) .. task(num_tasks-1), each once, on the pool.
void parallel_tasks(int64_t num_tasks, const std::function<void(int64_t)>& task);

}  // namespace fathom

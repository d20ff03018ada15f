#include "train/gradient_reducer.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <map>
#include <stdexcept>

#include "base/error.h"

namespace fathom::train {

using weights::Parameter;

namespace {

constexpr size_t kJobsUnderWay = 2;  // whole gradients that wait; sharded ones only

}  // namespace

GradientReducer::GradientReducer(weights::ParameterRegistry& registry, const CopyHolders& holders,
                                 bool is_overlapped)
    : registry_(registry),
      holders_(holders),
      shards_gradients_(registry.sharding().shards_gradients),
      shards_state_(registry.sharding().shards_state) {
  std::map<int64_t, std::vector<Parameter*>, std::greater<>> layers;
  for (Parameter& p : registry.parameters())
    if (p.is_stepped() && p.replica.size > 1) layers[p.pieces.front().spec->layer].push_back(&p);
  // From the last layer down, as the gradients come; -1, outside the layers, is the last anyway.
  for (auto& [layer, parameters] : layers) {
    for (Parameter* p : parameters) {
      block_of_[p] = blocks_.size();
      dtype_ = p->main_grad.scalar_type();
      p->sink = this;
    }
    std::vector<ShareBucket> buckets = make_buckets(parameters);
    blocks_.push_back({std::move(parameters), std::move(buckets)});
  }
  if (is_overlapped && !blocks_.empty()) thread_ = std::thread([this] { work(); });
}

GradientReducer::~GradientReducer() {
  {
    const std::lock_guard lock(mutex_);
    is_ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  for (const Block& block : blocks_)
    for (Parameter* p : block.parameters) p->sink = nullptr;
}

void GradientReducer::begin_step(int64_t micro_batches, int64_t most_micro_batches) {
  micro_batches_ = micro_batches;
  most_micro_batches_ = most_micro_batches;
  done_ = sent_rounds_ = 0;
  next_block_ = 0;
}

bool GradientReducer::reduces_now() const { return shards_gradients_ || done_ + 1 == micro_batches_; }

void GradientReducer::accumulate(ops::Weight& weight, std::function<void(ops::Weight&)> work) {
  if (reduces_now()) {
    const size_t block = block_of_.at(&weight);
    const auto& p = static_cast<const Parameter&>(weight);
    if (p.pieces.front().spec->layer >= 0)
      while (next_block_ < block) send(next_block_++);
    if (block < next_block_)
      throw std::logic_error("a gradient of " + weight.label + " comes after those of a lower layer");
  }
  if (shards_gradients_ && weight.main_grad.numel() == 0) {
    weight.main_grad = at::empty(weight.value.sizes(), weight.main_grad.options());
    weight.main_grad_empty = true;
    live_bytes_ += static_cast<int64_t>(weight.main_grad.nbytes());
    peak_bytes_ = std::max(peak_bytes_, live_bytes_.load());
  }
  work(weight);
}

void GradientReducer::end_micro_batch() {
  if (reduces_now()) send_all();
  ++done_;
}

void GradientReducer::send_all() {
  while (next_block_ < blocks_.size()) send(next_block_++);
  next_block_ = 0;
  ++sent_rounds_;
}

void GradientReducer::send(size_t block) {
  Job job{&blocks_[block], {}, shards_gradients_ && sent_rounds_ > 0};
  for (Parameter* p : blocks_[block].parameters) {
    if (!p->main_grad_empty) job.grads[p] = p->main_grad;
    if (shards_gradients_) {
      p->main_grad = at::empty({0}, p->main_grad.options());
      p->main_grad_empty = true;
    } else {
      p->main_grad_empty = false;
    }
  }
  if (!thread_.joinable()) return reduce(job);
  std::unique_lock lock(mutex_);
  if (shards_gradients_) changed_.wait(lock, [&] { return jobs_.size() < kJobsUnderWay || failure_; });
  if (failure_) std::rethrow_exception(failure_);
  jobs_.push_back(std::move(job));
  changed_.notify_all();
}

void GradientReducer::finish() {
  const int64_t rounds = shards_gradients_ ? most_micro_batches_ : 1;
  while (sent_rounds_ < rounds) send_all();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return jobs_.empty() || failure_; });
  if (failure_) std::rethrow_exception(failure_);
}

void GradientReducer::reduce(Job& job) {
  const auto whole = [&](Parameter& p) {
    const auto found = job.grads.find(&p);
    return found == job.grads.end() ? at::Tensor() : found->second;
  };
  const auto share = [](Parameter& p) { return p.grad_share; };
  for (const ShareBucket& bucket : job.block->buckets) {
    parallel::Communicator& ranks = holders_.of(bucket.first());
    bucket.reduce(ranks, dtype_, whole, share, job.adds);
    if (!shards_state_) bucket.gather(ranks, dtype_, [](Parameter& p) { return p.main_grad; });
  }
  if (!shards_gradients_) return;
  for (auto& [p, grad] : job.grads) live_bytes_ -= static_cast<int64_t>(grad.nbytes());
}

void GradientReducer::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return !jobs_.empty() || is_ending_; });
    if (jobs_.empty()) return;
    if (failure_ || is_ending_) {
      jobs_.clear();
      return;
    }
    Job& job = jobs_.front();  // a deque keeps its elements in place
    lock.unlock();
    std::exception_ptr failure;
    try {
      reduce(job);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    jobs_.pop_front();
    if (failure) failure_ = failure;
    changed_.notify_all();
  }
}

}  // namespace fathom::train

// The sum of gradients over the ranks that hold the same parameters, while the backward pass goes on: a layer's
// gradients are final when the first one of a lower layer comes, and travel from then on in a thread of their own.
//
// parallel.zero 0: main_grad becomes the sum on every rank. 1: grad_share, the rank's part of it, becomes the sum; the
// rest of main_grad is spent. 2: the same, but the sums are made after every micro-batch, and a whole main_grad lives
// only from its first contribution to its sum: of the embedding, head and last norm during a whole backward pass, of
// layers one at a time plus those whose sums are under way (at most two). That costs the traffic once a micro-batch.
//
// Losses have global factors (step_batch.h): nothing is divided. What received nothing on a rank counts as zeros. Which
// messages are sent, and their order, is the same on every rank: it depends on layers and counts, never on routing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "ops/weight.h"
#include "train/share_buckets.h"

namespace fathom::train {

class GradientReducer : public ops::GradSink {
 public:
  // Becomes the sink of every parameter of the registry that other ranks hold too. `holders` must serve this object
  // alone where it is overlapped. Not overlapped: the same sums in the caller's thread.
  GradientReducer(weights::ParameterRegistry& registry, const CopyHolders& holders,
                  bool is_overlapped = true);
  ~GradientReducer() override;

  // A step: of `micro_batches` backward passes here, and at most `most_micro_batches` on any rank.
  void begin_step(int64_t micro_batches, int64_t most_micro_batches);
  void end_micro_batch();  // after each backward pass
  void finish();           // all sums are there. Throws what the sums threw

  void accumulate(ops::Weight& weight, std::function<void(ops::Weight&)> work) override;

  // The most that whole gradients took at one moment (0 where they are not sharded).
  int64_t peak_gradient_bytes() const { return peak_bytes_; }

 private:
  // The parameters of one layer; those outside the layers come last.
  struct Block {
    std::vector<weights::Parameter*> parameters;
    std::vector<ShareBucket> buckets;
  };
  struct Job {
    const Block* block;
    std::unordered_map<const weights::Parameter*, at::Tensor> grads;  // none: zeros
    bool adds;
  };
  bool reduces_now() const;
  void send(size_t block);
  void send_all();
  void reduce(Job& job);
  void work();

  weights::ParameterRegistry& registry_;
  CopyHolders holders_;
  bool shards_gradients_, shards_state_;
  at::ScalarType dtype_ = at::kFloat;
  std::vector<Block> blocks_;
  std::unordered_map<const ops::Weight*, size_t> block_of_;
  size_t next_block_ = 0;  // of this backward pass; those before are sent
  int64_t micro_batches_ = 0, most_micro_batches_ = 0, done_ = 0, sent_rounds_ = 0;
  std::atomic<int64_t> live_bytes_{0};
  int64_t peak_bytes_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;  // the first is under way
  std::exception_ptr failure_;
  bool is_ending_ = false;
  std::thread thread_;
};

}  // namespace fathom::train

#include "parallel/pipeline_schedule.h"

#include <algorithm>
#include <deque>
#include <map>

#include "base/error.h"

namespace fathom::parallel {
namespace {

using Actions = std::vector<PipelineAction>;

// The list of one place as it grows. Each chunk's next micro-batch is counted here, so that an order is said as a
// sequence of steps and chunks.
class ActionList {
 public:
  void forward(int64_t chunk) { actions_.push_back({Step::forward, chunk, forwards_[chunk]++}); }
  void backward(int64_t chunk) { actions_.push_back({Step::backward, chunk, backwards_[chunk]++}); }
  void backward_input(int64_t chunk) {
    actions_.push_back({Step::backward_input, chunk, backwards_[chunk]++});
    queued_.push_back({Step::backward_weight, chunk, actions_.back().micro_batch});
  }
  // The oldest queued gradient of weights.
  void weight() {
    FATHOM_ASSERT(!queued_.empty());
    actions_.push_back(queued_.front());
    queued_.pop_front();
  }
  int64_t num_queued() const { return static_cast<int64_t>(queued_.size()); }
  Actions take() { return std::move(actions_); }

 private:
  Actions actions_;
  std::map<int64_t, int64_t> forwards_, backwards_;
  std::deque<PipelineAction> queued_;
};

// Forward passes ahead of the first backward pass; then one forward, one backward; then the backward passes left.
Actions one_forward_one_backward(int64_t stages, int64_t place, int64_t micro_batches) {
  const int64_t ahead = std::min(micro_batches, stages - place - 1);
  ActionList list;
  for (int64_t i = 0; i < ahead; ++i) list.forward(place);
  for (int64_t i = ahead; i < micro_batches; ++i) {
    list.forward(place);
    list.backward(place);
  }
  for (int64_t i = 0; i < ahead; ++i) list.backward(place);
  return list.take();
}

// Micro-batches go through the chunks of a place in groups of `stages`. The place's i-th forward pass is of chunk
// i / stages % chunks (counted on the place); the backward passes take the chunks from the last.
Actions interleaved(int64_t stages, int64_t chunks, int64_t place, int64_t micro_batches) {
  const int64_t passes = micro_batches * chunks;
  const int64_t ahead = std::min(passes, 2 * (stages - place - 1) + (chunks - 1) * stages);
  const auto chunk_of = [&](int64_t pass) { return pass / stages % chunks * stages + place; };
  const auto backward_chunk_of = [&](int64_t pass) {
    return (chunks - 1 - pass / stages % chunks) * stages + place;
  };
  ActionList list;
  for (int64_t i = 0; i < ahead; ++i) list.forward(chunk_of(i));
  for (int64_t i = ahead; i < passes; ++i) {
    list.forward(chunk_of(i));
    list.backward(backward_chunk_of(i - ahead));
  }
  for (int64_t i = passes - ahead; i < passes; ++i) list.backward(backward_chunk_of(i));
  return list.take();
}

// 1F1B whose gradients of weights lag `place` micro-batches behind: later places keep more of them for the end, where
// they fill the time in which gradients of inputs travel to the first place. No place holds more than `stages`.
Actions zero_bubble(int64_t stages, int64_t place, int64_t micro_batches) {
  const int64_t ahead = std::min(micro_batches, stages - place - 1);
  ActionList list;
  for (int64_t i = 0; i < ahead; ++i) list.forward(place);
  for (int64_t i = 0; i < micro_batches; ++i) {
    if (i + ahead < micro_batches) list.forward(place);
    list.backward_input(place);
    if (list.num_queued() > place) list.weight();
  }
  while (list.num_queued() > 0) list.weight();
  return list.take();
}

// Chunk `down` is on the way from the embedding to the turn at the last place, `up` on the way back to the first place,
// which has the head. `below`: the places between this one and the turn.
Actions dualpipe_v(int64_t stages, int64_t place, int64_t micro_batches) {
  const int64_t down = place, up = 2 * stages - 1 - place, below = stages - 1 - place;
  ActionList list;
  // Fill: the first micro-batch comes back up after 2 x below passes elsewhere.
  for (int64_t i = 0; i < 2 * below; ++i) list.forward(down);
  for (int64_t i = 0; i <= place; ++i) {
    list.forward(down);
    list.forward(up);
  }
  // The first gradients arrive with nothing to alternate with: W fills the gaps.
  for (int64_t i = 0; i < below; ++i) {
    list.backward_input(up);
    list.weight();
    list.forward(up);
  }
  // The steady part: the forward pass of one way beside the backward pass of the other.
  const int64_t steady = micro_batches - 2 * stages + place + 1;
  for (int64_t i = 0; i < steady; ++i) {
    list.forward(down);
    list.backward(up);
    list.forward(up);
    list.backward(down);
  }
  // Drain: no forward pass of `down` is left.
  for (int64_t i = 0; i < below; ++i) {
    list.backward(up);
    list.forward(up);
    list.backward(down);
  }
  // The second half of what is left gives inputs' gradients first, for others wait for them.
  for (int64_t i = 0; i < 2 * (place + 1); ++i) {
    const int64_t chunk = i % 2 == 0 ? up : down;
    if (i > place)
      list.backward_input(chunk);
    else
      list.backward(chunk);
  }
  for (int64_t i = 0; i < below; ++i) {
    list.weight();
    list.backward_input(down);
  }
  while (list.num_queued() > 0) list.weight();
  return list.take();
}

}  // namespace

int64_t fewest_chunks_per_stage(const std::string& kind) {
  return kind == "interleaved_1f1b" || kind == "dualpipe_v" ? 2 : 1;
}

std::string pipeline_refusal(const std::string& kind, int64_t stages, int64_t chunks_per_stage,
                             int64_t micro_batches) {
  const char* const micro_batch_rule = "train.global_batch_size / (train.micro_batch_size x parallel.data)";
  if (kind != "1f1b" && kind != "interleaved_1f1b" && kind != "zero_bubble" && kind != "dualpipe_v")
    return fmt::format(
        "parallel.schedule: \"{}\" is no pipeline schedule; choose 1f1b, interleaved_1f1b, zero_bubble or "
        "dualpipe_v",
        kind);
  if (stages < 1 || chunks_per_stage < 1 || micro_batches < 1)
    return fmt::format(
        "parallel.schedule: {} stages, {} chunks a stage and {} micro-batches make no pipeline; each must be "
        "1 or more",
        stages, chunks_per_stage, micro_batches);
  const int64_t fewest = fewest_chunks_per_stage(kind);
  if (kind == "interleaved_1f1b" ? chunks_per_stage < fewest : chunks_per_stage != fewest)
    return fmt::format("parallel.schedule: {} needs {}{} chunk{} a stage, not {}", kind,
                       kind == "interleaved_1f1b" ? "at least " : "", fewest, fewest == 1 ? "" : "s",
                       chunks_per_stage);
  if (kind == "interleaved_1f1b" && micro_batches % stages != 0)
    return fmt::format(
        "parallel.schedule: interleaved_1f1b needs micro-batches that divide by parallel.pipeline = {}, but "
        "a "
        "step has {} ({}); change the batch size or use 1f1b",
        stages, micro_batches, micro_batch_rule);
  if (kind == "dualpipe_v" && micro_batches < 2 * stages - 1)
    return fmt::format(
        "parallel.schedule: dualpipe_v needs {} micro-batches a step or more with parallel.pipeline = {}, "
        "but "
        "a step has {} ({}); raise the batch size or use zero_bubble",
        2 * stages - 1, stages, micro_batches, micro_batch_rule);
  return "";
}

PipelineSchedule::PipelineSchedule(const std::string& kind, int64_t stages, int64_t chunks_per_stage,
                                   int64_t micro_batches)
    : kind_(kind), stages_(stages), chunks_per_stage_(chunks_per_stage), micro_batches_(micro_batches) {
  const std::string refusal = pipeline_refusal(kind, stages, chunks_per_stage, micro_batches);
  if (!refusal.empty()) throw ConfigError(refusal);
  for (int64_t place = 0; place < stages; ++place) {
    if (kind == "1f1b") actions_.push_back(one_forward_one_backward(stages, place, micro_batches));
    if (kind == "interleaved_1f1b")
      actions_.push_back(interleaved(stages, chunks_per_stage, place, micro_batches));
    if (kind == "zero_bubble") actions_.push_back(zero_bubble(stages, place, micro_batches));
    if (kind == "dualpipe_v") actions_.push_back(dualpipe_v(stages, place, micro_batches));
  }
}

int64_t PipelineSchedule::owner(int64_t chunk) const {
  FATHOM_ASSERT(chunk >= 0 && chunk < num_chunks());
  if (kind_ == "dualpipe_v") return std::min(chunk, num_chunks() - 1 - chunk);
  return chunk % stages_;
}

std::vector<int64_t> PipelineSchedule::chunks_of(int64_t place) const {
  FATHOM_ASSERT(place >= 0 && place < stages_);
  std::vector<int64_t> chunks;
  for (int64_t chunk = 0; chunk < num_chunks(); ++chunk)
    if (owner(chunk) == place) chunks.push_back(chunk);
  return chunks;
}

const std::vector<PipelineAction>& PipelineSchedule::actions(int64_t place) const {
  FATHOM_ASSERT(place >= 0 && place < stages_);
  return actions_[static_cast<size_t>(place)];
}

PipelinePeak PipelineSchedule::peak(int64_t place) const {
  PipelinePeak now{0, 0}, peak{0, 0};
  for (const PipelineAction& action : actions(place)) {
    if (action.step == Step::forward) {
      ++now.activations;
      ++now.weight_inputs;
    }
    if (action.step == Step::backward || action.step == Step::backward_input) --now.activations;
    if (action.step == Step::backward || action.step == Step::backward_weight) --now.weight_inputs;
    peak.activations = std::max(peak.activations, now.activations);
    peak.weight_inputs = std::max(peak.weight_inputs, now.weight_inputs);
  }
  return peak;
}

}  // namespace fathom::parallel

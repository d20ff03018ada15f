// Pipeline schedules as data: for each pipeline place the list of forward and backward passes that it executes, in order,
// in one optimizer step. A pure function of four numbers; the trainer executes the lists, the plan simulates the same ones
// (parallel/pipeline_timeline.h).
//
// The model is cut into `stages` x `chunks_per_stage` chunks of consecutive layers; chunk 0 has the embedding, the last
// chunk the head and the loss. F(c, m) needs F(c - 1, m); B(c, m) needs F(c, m) and B(c + 1, m); W(c, m) needs B(c, m).
// A place that sends without waiting, and waits for what an action needs just before it, never deadlocks. For each chunk
// the forward passes, and the backward passes, are in ascending order of micro-batch at both ends: messages need one tag
// for each (chunk, direction), none for each micro-batch. On one place W come in the order of their B: a queue does.
// Neighbouring chunks of one place (the turn of dualpipe_v, one stage) hand over without a message.
//
//   1f1b              one chunk a stage; Narayanan et al. 2021 (2104.04473), non-interleaved.
//   interleaved_1f1b  chunk c on place c % stages, two chunks a stage or more; the same paper, section 2.2.
//   zero_bubble       ZB-H1 of Qi et al. 2023 (2401.10241): gradients of inputs and weights apart; 1F1B's memory.
//   dualpipe_v        chunks r and 2 stages - 1 - r on place r, forward and backward passes of the two alternate;
//                     DeepSeek's DualPipe, cut in half (Sea AI).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fathom::parallel {

enum class Step {
  forward,
  backward,         // gradients of inputs and weights at once
  backward_input,   // gradients of inputs; those of the weights are queued
  backward_weight,  // the queued gradients of the weights
};

struct PipelineAction {
  Step step;
  int64_t chunk;        // 0 .. num_chunks() - 1
  int64_t micro_batch;  // 0 .. micro_batches - 1
  bool operator==(const PipelineAction&) const = default;
};

// The largest numbers of (chunk, micro-batch) pairs that a place holds at one time.
struct PipelinePeak {
  int64_t activations;    // from F to the gradient of the input: what the graph keeps
  int64_t weight_inputs;  // from F to the gradient of the weights: what W needs
};

// Why a schedule cannot be made, as the words of a ConfigError ("parallel.schedule: ... needs ..."); empty: it can.
std::string pipeline_refusal(const std::string& kind, int64_t stages, int64_t chunks_per_stage,
                             int64_t micro_batches);

// The fewest chunks a stage that a kind allows: 1 or 2.
int64_t fewest_chunks_per_stage(const std::string& kind);

class PipelineSchedule {
 public:
  // kind: as parallel.schedule. Throws ConfigError with pipeline_refusal's words.
  PipelineSchedule(const std::string& kind, int64_t stages, int64_t chunks_per_stage, int64_t micro_batches);

  const std::string& kind() const { return kind_; }
  int64_t stages() const { return stages_; }
  int64_t num_chunks() const { return stages_ * chunks_per_stage_; }
  int64_t micro_batches() const { return micro_batches_; }
  int64_t owner(int64_t chunk) const;                   // the pipeline place that holds a chunk
  std::vector<int64_t> chunks_of(int64_t place) const;  // ascending
  const std::vector<PipelineAction>& actions(int64_t place) const;
  PipelinePeak peak(int64_t place) const;

 private:
  std::string kind_;
  int64_t stages_, chunks_per_stage_, micro_batches_;
  std::vector<std::vector<PipelineAction>> actions_;  // of each place
};

}  // namespace fathom::parallel

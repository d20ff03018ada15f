// This rank's layers in training and evaluation: the parts of the model that its pipeline stage has, and the order in which
// they run (parallel/pipeline_schedule.h). A pipeline of one stage is the whole model, a micro-batch after the other.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "config/recipe.h"
#include "model/deepseek.h"
#include "parallel/pipeline_schedule.h"
#include "parallel/world.h"

namespace fathom::train {

// Sums over the micro-batches of a step, of what arose on this rank: zeros where the head is elsewhere.
struct LossSums {
  double nll = 0, balance = 0;
  std::vector<double> mtp_nll;  // per depth
};

// The runs of layers of a pipeline, in order: stage_layers.h says how many, MTP modules at the end. Throws ConfigError: no
// room for them.
std::vector<model::ModelPart> cut_into_parts(const config::Recipe& recipe,
                                             const parallel::PipelineSchedule& schedule);

class Pipeline {
 public:
  // Registers this rank's parameters. The world outlives it.
  Pipeline(weights::ParameterRegistry& registry, const config::Recipe& recipe, parallel::World& world);
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;
  ~Pipeline();

  // Weight gradients pass through this object on their way to the parameters' present sinks: schedules that put them off.
  void take_over_sinks();

  // Forward and backward of all micro-batches; gradients of this rank are in the registry afterwards. `after` is called
  // once for each micro-batch when its gradients are there: behind its backward pass, or, of several stages, at the end.
  LossSums train(const std::vector<model::MicroBatch>& batches, const model::LossCoefficients& coefficients,
                 const std::function<void()>& after = {});
  // Without gradients; the loss of the rank that has the head, zeros elsewhere.
  ops::VocabLoss evaluate(const model::MicroBatch& batch);

  std::vector<model::Moe*> moe_layers();  // this rank's: trunk, then MTP
  // MTP reads the embedding on the last stage, which the first one owns: gradients went there in train(), values come back
  // after the optimizer's step.
  void fetch_values();

 private:
  struct Flight;
  class WeightWork;
  using Key = std::pair<int64_t, int64_t>;  // chunk, micro-batch
  struct StepRun;

  bool is_first(int64_t chunk) const { return chunk == 0; }
  bool is_last(int64_t chunk) const { return chunk + 1 == schedule_.num_chunks(); }
  model::DeepseekModel& part(int64_t chunk) { return parts_.at(chunk); }
  int tag(int64_t chunk, int64_t micro, bool is_gradient) const;
  at::Tensor receive(int64_t chunk, int64_t micro, bool is_gradient, const model::MicroBatch& batch);
  void deliver(int64_t chunk, int64_t micro, bool is_gradient, const at::Tensor& tensor);
  void finish_sends();
  void forward(StepRun& run, int64_t chunk, int64_t micro);
  void backward(StepRun& run, int64_t chunk, int64_t micro, bool with_weights);
  weights::Parameter* shared_embedding();
  void hand_over_gradients();

  weights::ParameterRegistry& registry_;
  config::ParallelSection section_;
  config::RecomputeSection recompute_;
  model::ModelRanks ranks_;
  parallel::Communicator& stages_;
  parallel::PipelineSchedule schedule_;            // of the last step's number of micro-batches
  std::map<int64_t, model::DeepseekModel> parts_;  // by chunk
  std::unique_ptr<WeightWork> weight_work_;
  std::map<std::pair<Key, bool>, at::Tensor> handed_over_;  // between two chunks of this rank
  std::vector<std::function<void()>> sends_;
};

}  // namespace fathom::train

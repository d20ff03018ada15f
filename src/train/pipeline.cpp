#include "train/pipeline.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "base/error.h"
#include "config/stage_layers.h"

namespace fathom::train {
namespace {

using parallel::Dimension;
using parallel::PipelineAction;
using parallel::PipelineSchedule;
using parallel::Step;

model::ModelRanks model_ranks(parallel::World& world) {
  const auto along = [&](Dimension dimension) {
    return world.layout().size(dimension) > 1 ? &world.along(dimension) : nullptr;
  };
  return {along(Dimension::tensor), along(Dimension::expert)};
}

int64_t chunks_per_stage(const config::ParallelSection& section) {
  if (section.virtual_stages > 0) return section.virtual_stages;
  return parallel::fewest_chunks_per_stage(section.schedule);
}

PipelineSchedule schedule_of(const config::ParallelSection& section, int64_t micro_batches) {
  if (section.pipeline == 1) return PipelineSchedule("1f1b", 1, 1, micro_batches);
  return PipelineSchedule(section.schedule, section.pipeline, chunks_per_stage(section), micro_batches);
}

// Of the run's first step. Throws ConfigError naming the recipe.
PipelineSchedule first_schedule(const config::Recipe& recipe) {
  const int64_t unit = recipe.train.micro_batch_size * recipe.parallel.data;
  const int64_t micro_batches =
      std::max<int64_t>(1, static_cast<int64_t>(recipe.train.global_batch_size.at(0)) / unit);
  try {
    return schedule_of(recipe.parallel, micro_batches);
  } catch (const ConfigError& error) {
    throw ConfigError("{}: {}", recipe.file.string(), error.what());
  }
}

}  // namespace

std::vector<model::ModelPart> cut_into_parts(const config::Recipe& recipe, const PipelineSchedule& schedule) {
  const int64_t stages = recipe.parallel.pipeline, chunks = schedule.num_chunks();
  const int64_t layers = recipe.model.num_layers_with_mtp(), mtp = recipe.model.num_nextn_predict_layers;
  const auto fail = [&](const std::string& why) {
    throw ConfigError("{}: parallel: {}", recipe.file.string(), why);
  };
  std::vector<int64_t> counts = config::stage_layers(recipe.model, recipe.parallel);
  if (chunks != stages) {
    if (!recipe.parallel.layer_offset.empty())
      fail("layer_offset goes with schedules that give a stage one run of layers; this one has several");
    counts.clear();
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      counts.push_back(layers / chunks + (chunk < layers % chunks ? 1 : 0));
  }
  if (counts.back() < mtp)
    fail(
        fmt::format("the last of {} runs of layers has room for {} layers, and {} MTP modules go there: use "
                    "fewer, or layer_offset",
                    chunks, counts.back(), mtp));
  counts.back() -= mtp;
  std::vector<model::ModelPart> parts(counts.size());
  std::vector<int64_t> held(static_cast<size_t>(stages), 0);
  int64_t layer = 0;
  for (size_t chunk = 0; chunk < parts.size(); ++chunk) {
    model::ModelPart& part = parts[chunk];
    part.stage = schedule.owner(static_cast<int64_t>(chunk));
    part.layers_before = std::exchange(held.at(static_cast<size_t>(part.stage)),
                                       held.at(static_cast<size_t>(part.stage)) + counts[chunk]);
    part.first_layer = layer;
    part.end_layer = layer += counts[chunk];
    part.has_embedding = chunk == 0;
    part.has_head = chunk + 1 == parts.size();
  }
  return parts;
}

// What a chunk keeps of a micro-batch between its forward and its backward.
struct Pipeline::Flight {
  at::Tensor input, hidden, total;
};

// Weight gradients at once, or kept for the schedule's own step.
class Pipeline::WeightWork : public ops::GradSink {
 public:
  void accumulate(ops::Weight& weight, std::function<void(ops::Weight&)> work) override {
    if (!kept_) return pass_on(weight, std::move(work));
    kept_->push_back({&weight, std::move(work)});
  }
  void take_over(ops::Weight& weight) { next_[&weight] = std::exchange(weight.sink, this); }
  void keep_for(const Key& key) { kept_ = &queues_[key]; }
  void at_once() { kept_ = nullptr; }
  void run(const Key& key) {
    const auto queue = queues_.extract(key);
    FATHOM_ASSERT(!queue.empty());
    for (auto& [weight, work] : queue.mapped()) pass_on(*weight, std::move(work));
  }

 private:
  void pass_on(ops::Weight& weight, std::function<void(ops::Weight&)> work) {
    ops::GradSink* next = next_.at(&weight);
    next ? next->accumulate(weight, std::move(work)) : work(weight);
  }
  std::map<const ops::Weight*, ops::GradSink*> next_;
  using Queue = std::vector<std::pair<ops::Weight*, std::function<void(ops::Weight&)>>>;
  std::map<Key, Queue> queues_;
  Queue* kept_ = nullptr;
};

struct Pipeline::StepRun {
  const std::vector<model::MicroBatch>& batches;
  const model::LossCoefficients& coefficients;
  LossSums sums;
  std::map<Key, Flight> flights;
};

Pipeline::Pipeline(weights::ParameterRegistry& registry, const config::Recipe& recipe, parallel::World& world)
    : registry_(registry),
      section_(recipe.parallel),
      recompute_(recipe.train.recompute),
      ranks_(model_ranks(world)),
      stages_(world.along(Dimension::pipeline)),
      schedule_(first_schedule(recipe)),
      weight_work_(std::make_unique<WeightWork>()) {
  const std::vector<model::ModelPart> parts = cut_into_parts(recipe, schedule_);
  for (const int64_t chunk : schedule_.chunks_of(stages_.place()))
    parts_.try_emplace(chunk, registry, ranks_, parts.at(static_cast<size_t>(chunk)));
  if (weights::Parameter* embedding = shared_embedding())
    embedding->is_follower = stages_.place() != schedule_.owner(0);
}

Pipeline::~Pipeline() {
  for (weights::Parameter& parameter : registry_.parameters())
    if (parameter.sink == weight_work_.get()) parameter.sink = nullptr;
}

void Pipeline::take_over_sinks() {
  for (weights::Parameter& parameter : registry_.parameters()) weight_work_->take_over(parameter);
}

// The embedding of this rank where another stage has one too.
weights::Parameter* Pipeline::shared_embedding() {
  const int64_t first = schedule_.owner(0), last = schedule_.owner(schedule_.num_chunks() - 1);
  if (first == last || registry_.model().num_nextn_predict_layers == 0) return nullptr;
  return registry_.find("model.embed_tokens.weight").first;
}

void Pipeline::hand_over_gradients() {
  weights::Parameter* embedding = shared_embedding();
  if (!embedding || !embedding->is_trained()) return;
  at::Tensor& grad = embedding->grad_for_adding();
  if (embedding->is_follower) return stages_.send(grad, schedule_.owner(0));
  at::Tensor theirs = at::empty_like(grad);
  stages_.recv(theirs, schedule_.owner(schedule_.num_chunks() - 1));
  grad.add_(theirs);
}

void Pipeline::fetch_values() {
  weights::Parameter* embedding = shared_embedding();
  if (!embedding) return;
  if (embedding->is_follower)
    stages_.recv(embedding->value, schedule_.owner(0));
  else
    stages_.send(embedding->value, schedule_.owner(schedule_.num_chunks() - 1));
}

std::vector<model::Moe*> Pipeline::moe_layers() {
  std::vector<model::Moe*> result;
  for (auto& [chunk, part] : parts_)
    for (model::Moe* moe : part.moe_layers()) result.push_back(moe);
  return result;
}

// Of a message to `chunk`.
int Pipeline::tag(int64_t chunk, int64_t micro, bool is_gradient) const {
  return static_cast<int>(2 * (micro * schedule_.num_chunks() + chunk) + (is_gradient ? 1 : 0));
}

at::Tensor Pipeline::receive(int64_t chunk, int64_t micro, bool is_gradient, const model::MicroBatch& batch) {
  const int64_t from = schedule_.owner(is_gradient ? chunk + 1 : chunk - 1);
  if (from == stages_.place()) {
    const auto node = handed_over_.extract({{chunk, micro}, is_gradient});
    FATHOM_ASSERT(!node.empty());
    return node.mapped();
  }
  const int64_t rows = ranks_.tensor_share(batch.tokens.size(0)).count;
  at::Tensor tensor = at::empty({rows, registry_.model().hidden_size},
                                at::TensorOptions().dtype(weights::value_dtype(registry_.precision())));
  stages_.recv(tensor, from, tag(chunk, micro, is_gradient));
  return tensor;
}

// To `chunk`.
void Pipeline::deliver(int64_t chunk, int64_t micro, bool is_gradient, const at::Tensor& tensor) {
  const int64_t to = schedule_.owner(chunk);
  if (to == stages_.place()) {
    handed_over_[{{chunk, micro}, is_gradient}] = tensor;
    return;
  }
  sends_.push_back(stages_.send_later(tensor.contiguous(), to, tag(chunk, micro, is_gradient)));
}

void Pipeline::finish_sends() {
  for (const auto& wait : std::exchange(sends_, {})) wait();
}

void Pipeline::forward(StepRun& run, int64_t chunk, int64_t micro) {
  const model::MicroBatch& batch = run.batches.at(static_cast<size_t>(micro));
  Flight flight;
  if (!is_first(chunk)) flight.input = receive(chunk, micro, false, batch).requires_grad_(true);
  const auto output =
      part(chunk).forward(flight.input, batch, run.coefficients, recompute_, /*count_load=*/true);
  flight.hidden = output.hidden;
  flight.total = output.report.total;
  run.sums.nll += output.report.nll_sum;
  run.sums.balance += output.report.balance_loss;
  run.sums.mtp_nll.resize(std::max(run.sums.mtp_nll.size(), output.report.mtp_nll_sum.size()));
  for (size_t d = 0; d < output.report.mtp_nll_sum.size(); ++d)
    run.sums.mtp_nll[d] += output.report.mtp_nll_sum[d];
  if (!is_last(chunk)) deliver(chunk + 1, micro, false, flight.hidden.detach());
  run.flights.emplace(Key{chunk, micro}, std::move(flight));
}

void Pipeline::backward(StepRun& run, int64_t chunk, int64_t micro, bool with_weights) {
  const auto node = run.flights.extract({chunk, micro});
  FATHOM_ASSERT(!node.empty());
  const Flight& flight = node.mapped();
  torch::autograd::variable_list roots, grads;
  if (!is_last(chunk)) {
    roots.push_back(flight.hidden);
    grads.push_back(receive(chunk, micro, true, run.batches.at(static_cast<size_t>(micro))));
  }
  if (flight.total.defined()) {
    roots.push_back(flight.total);
    grads.push_back(at::ones_like(flight.total));
  }
  if (!with_weights) weight_work_->keep_for({chunk, micro});
  torch::autograd::backward(roots, grads);
  weight_work_->at_once();
  if (!is_first(chunk)) deliver(chunk - 1, micro, true, flight.input.grad());
}

LossSums Pipeline::train(const std::vector<model::MicroBatch>& batches,
                         const model::LossCoefficients& coefficients, const std::function<void()>& after) {
  StepRun run{batches, coefficients, {}, {}};
  const auto micro_batches = static_cast<int64_t>(batches.size());
  if (schedule_.micro_batches() != micro_batches) schedule_ = schedule_of(section_, micro_batches);
  for (const PipelineAction& action : schedule_.actions(stages_.place())) {
    switch (action.step) {
      case Step::forward:
        forward(run, action.chunk, action.micro_batch);
        break;
      case Step::backward:
        backward(run, action.chunk, action.micro_batch, true);
        if (after && stages_.size() == 1) after();
        break;
      case Step::backward_input:
        backward(run, action.chunk, action.micro_batch, false);
        break;
      case Step::backward_weight:
        weight_work_->run({action.chunk, action.micro_batch});
        break;
    }
  }
  finish_sends();
  hand_over_gradients();
  if (after && stages_.size() > 1)
    for (size_t i = 0; i < batches.size(); ++i) after();
  return run.sums;
}

ops::VocabLoss Pipeline::evaluate(const model::MicroBatch& batch) {
  at::NoGradGuard no_grad;
  model::LossCoefficients main_only;  // no MTP, no balance
  ops::VocabLoss loss;
  for (auto& [chunk, part] : parts_) {
    const at::Tensor input = is_first(chunk) ? at::Tensor() : receive(chunk, 0, false, batch);
    const auto output = part.forward(input, batch, main_only, {}, /*count_load=*/false);
    if (is_last(chunk)) {
      loss.nll_sum = output.report.nll_sum;
      loss.num_targets = output.report.num_targets;
    } else {
      deliver(chunk + 1, 0, false, output.hidden);
    }
  }
  finish_sends();
  return loss;
}

}  // namespace fathom::train

#include "train/trainer.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <span>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "base/stop_signal.h"
#include "config/supported.h"
#include "config/tensor_table.h"
#include "kernels/isa.h"
#include "model/deepseek.h"
#include "ops/allocator.h"
#include "ops/runtime.h"
#include "parallel/launch_environment.h"
#include "parallel/world.h"
#include "tokenizer/tokenizer.h"
#include "train/balance.h"
#include "train/checkpoint.h"
#include "train/data_parallel.h"
#include "train/evaluate.h"
#include "train/fault_finder.h"
#include "train/gradient_reducer.h"
#include "train/lr_schedule.h"
#include "train/metrics.h"
#include "train/optimizer.h"
#include "train/pipeline.h"
#include "train/progress_line.h"
#include "train/report.h"
#include "train/run_plan.h"
#include "train/shared_disk.h"
#include "train/step_batch.h"
#include "train/tensorboard.h"
#include "train/trainer_state.h"
#include "weights/load_weights.h"

namespace fathom::train {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::filesystem::path tokenizer_of(const config::Recipe& recipe) {
  if (!recipe.data.tokenizer.empty()) return recipe.data.tokenizer;
  return tokenizer::Tokenizer::is_in(recipe.model_path) ? recipe.model_path : std::filesystem::path();
}

// A stage that starts from other weights says what it changes (RoPE, positions, balance, ...).
void print_config_differences(const config::Recipe& recipe, const std::filesystem::path& loaded) {
  const Json then = config::to_json(config::read_model_config(loaded));
  const Json now = config::to_json(recipe.model);
  for (const auto& [key, value] : now.items()) {
    if (key == "torch_dtype" || key == "dtype" || (then.contains(key) && then[key] == value)) continue;
    log::info("checkpoint.load: {} is {} here, {} in {}", key, value.dump(),
              then.contains(key) ? then[key].dump() : "absent", loaded.string());
  }
}

// Everything a run writes for people to look at.
class Record {
 public:
  Record(const config::Recipe& recipe, const RunPlan& plan, int64_t resume_step)
      : output_dir_(recipe.output_dir),
        metrics_(recipe.output_dir, resume_step),
        loads_(recipe.output_dir, resume_step, plan.total_steps),
        events_(recipe.output_dir / "tensorboard", resume_step),
        line_(plan.total_steps, resume_step, recipe.log.every) {
    const config::ParameterCounts counts = config::count_parameters(recipe.model);
    facts_.model_name =
        recipe.model_path.empty() ? recipe.model.model_type : recipe.model_path.stem().string();
    facts_.total_parameters = counts.trunk + counts.mtp;
    facts_.active_parameters = counts.activated;
    facts_.total_steps = plan.total_steps;
    facts_.precision = config::name(recipe.train.precision);
    facts_.more = {{"Recipe", recipe.file.filename().string()},
                   {"Sequence length", std::to_string(recipe.data.seq_length)},
                   {"Instruction set", kernels::name(kernels::isa())},
                   {"Threads", std::to_string(num_threads())}};
  }

  void step(const StepMetrics& metrics, const ExpertLoad& load) {
    metrics_.append(metrics);
    loads_.append(load);
    events_.write(metrics);
    if (loads_.wants(load.step)) events_.write(load);
    line_.step(metrics);
  }
  void report(bool finished) {
    facts_.is_finished = finished;
    write_report(output_dir_, facts_);
  }
  void close(bool finished) {
    report(finished);
    line_.finish(read_metrics(output_dir_));
  }

 private:
  std::filesystem::path output_dir_;
  MetricsFile metrics_;
  ExpertLoadFile loads_;
  EventFile events_;
  ProgressLine line_;
  RunFacts facts_;
};

// 0 in the recipe: the cores that this process may use, shared with the other ranks of its host.
int threads_of_rank(const config::Recipe& recipe, const parallel::LaunchEnvironment& environment) {
  if (recipe.train.threads > 0) return recipe.train.threads;
  set_num_threads(0);
  return std::max(1, num_threads() / static_cast<int>(environment.local_world_size));
}

// What of the training state this rank keeps (parallel.zero).
weights::Sharding sharding_of(const config::Recipe& recipe, const parallel::World& world) {
  const auto replica = [&](parallel::Dimension dimension) {
    return weights::Replica{world.place(dimension), world.layout().size(dimension)};
  };
  using parallel::Dimension;
  return {replica(Dimension::stage), replica(Dimension::expert_data), recipe.parallel.zero >= 1,
          recipe.parallel.zero >= 2, replica(Dimension::replica)};
}

config::CheckpointSection with_snapshot_of_rank(config::CheckpointSection section,
                                                const parallel::World& world) {
  if (section.snapshot_bytes < 0)
    section.snapshot_bytes =
        static_cast<int64_t>(total_memory_bytes()) / 10 / world.environment().local_world_size;
  return section;
}

class Trainer {
 public:
  Trainer(const config::Recipe& recipe, parallel::World& world);
  RunEnd run();

 private:
  void load_start();
  StepMetrics train_step();
  void update_balance(int64_t consumed_tokens);
  void judge_finite(const StepMetrics& metrics, bool finite);
  void save(bool training_goes_on);
  bool is_stopping();  // one answer on all ranks

  const config::Recipe& recipe_;
  parallel::World& world_;
  parallel::Communicator& data_ranks_;
  weights::ParameterRegistry registry_;
  Pipeline pipeline_;
  RunPlan plan_;
  std::unique_ptr<data::TrainingData> data_, held_out_;
  std::unique_ptr<GradientReducer> reducer_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<CheckpointStore> store_;
  TrainerState state_;
  ExpertLoad load_;
  int64_t saved_step_ = -1;
};

Trainer::Trainer(const config::Recipe& recipe, parallel::World& world)
    : recipe_(recipe),
      world_(world),
      data_ranks_(world.along(parallel::Dimension::data)),
      registry_(recipe.model, recipe.train.precision, c10::kCPU, true, sharding_of(recipe, world)),
      pipeline_(registry_, recipe, world) {
  // The first rank builds the index cache, the others map it.
  if (!world.is_first()) world.board().meet("the data's index");
  const data::IndexCache cache = data::run_cache(recipe);
  const auto open = [&](data::Split split, int64_t samples) {
    return data::open_run_data(recipe, split, samples, cache);
  };
  const int64_t epoch = recipe.train.epochs > 0 ? open(data::Split::train, 0)->size() : 0;
  plan_ = plan_run(recipe, epoch);
  data_ = open(data::Split::train, plan_.total_samples);
  if (recipe.train.eval_every > 0) held_out_ = open(data::Split::valid, 0);
  if (world.is_first()) world.board().meet("the data's index");
  registry_.allocate_grads(recipe.train.grad_dtype);
  using parallel::Dimension;
  reducer_ = std::make_unique<GradientReducer>(
      registry_, CopyHolders{&world.beside(Dimension::stage), &world.beside(Dimension::expert_data),
                             &world.beside(Dimension::replica)});
  pipeline_.take_over_sinks();
  optimizer_ = std::make_unique<Optimizer>(
      registry_, recipe.train.optimizer,
      CopyHolders{&world.along(Dimension::stage), &world.along(Dimension::expert_data),
                  &world.along(Dimension::replica), &world.along(Dimension::world)});
  if (world.size() > 1) {
    const weights::ParameterRegistry::HeldBytes held = registry_.held_bytes();
    log::info("parallel.zero {}: this rank holds {} of weights, {} of optimizer state, {} of gradients",
              recipe.parallel.zero, format_bytes(static_cast<double>(held.weights)),
              format_bytes(static_cast<double>(held.state)),
              format_bytes(static_cast<double>(held.gradients)));
  }
  store_ = std::make_unique<CheckpointStore>(
      recipe.output_dir, with_snapshot_of_rank(recipe.checkpoint, world), tokenizer_of(recipe),
      &world.board(), &world.along(Dimension::tensor));
  const int64_t every = recipe.checkpoint.every;
  store_->check_disk(registry_, every > 0 ? (plan_.total_steps + every - 1) / every : 1);
  load_start();
  ops::trim_allocator_cache();  // what loading used and needs no more
}

bool Trainer::is_stopping() {
  int64_t stops = stop_requested() ? 1 : 0;
  world_.along(parallel::Dimension::world).all_reduce(std::span(&stops, 1), parallel::Reduce::max);
  return stops != 0;
}

void Trainer::load_start() {
  state_ = TrainerState::fresh(recipe_, data_->fingerprint());
  if (const auto found = store_->find_latest_good()) {
    const std::filesystem::path& directory = found->directory;
    const LoadedCheckpoint loaded = load_checkpoint(directory, registry_);
    // What every rank finds, one says.
    if (!world_.is_first()) log::set_terminal_level(log::Level::error);
    state_.resume(loaded.state, directory);
    if (!loaded.has_moments)
      log::warning("{} holds no optimizer state: the moments start at zero", directory.string());
    if (!world_.is_first()) log::set_terminal_level(log::Level::warning);
    saved_step_ = state_.step;
    log::info("continuing from {} (step {} of {})", directory.string(), state_.step, plan_.total_steps);
    return;
  }
  if (!recipe_.checkpoint.load.empty()) {
    const std::filesystem::path load = checkpoint::resolve_checkpoint(recipe_.checkpoint.load);
    print_config_differences(recipe_, load);
    if (recipe_.checkpoint.load_optimizer) {
      const LoadedCheckpoint loaded = load_checkpoint(load, registry_);
      state_.optimizer_steps = loaded.state.value("optimizer_steps", int64_t{0});  // the moments' age
    } else {
      weights::load_weights(registry_, load);
    }
  } else if (recipe_.model_has_weights) {
    weights::load_weights(registry_, recipe_.model_path);
  } else {
    registry_.initialize(recipe_.seed);
  }
}

StepMetrics Trainer::train_step() {
  const Clock::time_point start = Clock::now();
  const config::TrainSection& train = recipe_.train;
  const int64_t depths = recipe_.model.num_nextn_predict_layers;
  const double mtp_weight = depths > 0 ? train.mtp_loss_weight.at(state_.consumed_tokens) : 0;
  const StepBatch batch =
      make_step_batch(*data_, state_.consumed_samples, global_batch_size(recipe_, state_.consumed_tokens),
                      train.micro_batch_size, mtp_weight != 0 ? depths : 0, data_ranks_);
  const model::LossCoefficients coefficients =
      loss_coefficients(batch, mtp_weight, train.balance.sequence_aux_loss, train.z_loss);

  registry_.clear_grads();
  const std::vector<model::Moe*> moe_layers = pipeline_.moe_layers();
  for (model::Moe* moe : moe_layers) moe->clear_load();
  reducer_->begin_step(static_cast<int64_t>(batch.micro_batches.size()), batch.most_micro_batches);
  const LossSums losses =
      pipeline_.train(batch.micro_batches, coefficients, [&] { reducer_->end_micro_batch(); });
  double mtp_loss = 0;
  for (size_t d = 0; d < losses.mtp_nll.size(); ++d)
    mtp_loss += losses.mtp_nll[d] / static_cast<double>(std::max<int64_t>(1, batch.num_mtp_targets[d])) /
                static_cast<double>(losses.mtp_nll.size());
  std::vector<double> sums = {losses.nll, mtp_loss, losses.balance};
  data_ranks_.all_reduce(std::span(sums));
  world_.along(parallel::Dimension::pipeline).all_reduce(std::span(sums));
  const std::vector<LayerCounts> loads = sum_loads(moe_layers, recipe_.model, world_);
  reducer_->finish();

  StepMetrics metrics;
  metrics.loss = sums[0] / static_cast<double>(std::max<int64_t>(1, batch.num_targets));
  if (mtp_weight != 0) metrics.mtp_loss = sums[1];
  metrics.balance_loss = sums[2];
  metrics.lr = learning_rate(train.lr, state_.step, plan_.total_steps);
  const GradNorm norm = optimizer_->grad_norm();
  metrics.grad_norm = norm.norm;
  const bool finite = norm.is_finite && std::isfinite(metrics.loss);
  if (finite) {
    const bool clips = train.clip_grad_norm > 0 && norm.norm > train.clip_grad_norm;
    optimizer_->step(metrics.lr, state_.optimizer_steps + 1,
                     clips ? train.clip_grad_norm / (norm.norm + 1e-6) : 1.0);
    pipeline_.fetch_values();
    ++state_.optimizer_steps;
  }
  load_ = measure_load(loads, state_.step + 1);
  metrics.max_violation = largest_violation(load_);
  if (finite) update_balance(state_.consumed_tokens);

  state_.advance(batch.num_sequences, batch.num_tokens, finite);
  metrics.step = state_.step;
  metrics.skipped = state_.skipped_steps;
  metrics.tokens = batch.num_tokens;
  metrics.seconds = seconds_since(start);
  metrics.tokens_per_second = static_cast<double>(batch.num_tokens) / std::max(metrics.seconds, 1e-9);
  return metrics;
}

void Trainer::update_balance(int64_t consumed_tokens) {
  const double rate = recipe_.train.balance.bias_update_rate.at(consumed_tokens);
  for (model::Moe* moe : pipeline_.moe_layers()) {
    weights::Parameter* bias = moe->correction_bias();
    if (!bias) continue;
    if (bias->value.scalar_type() == at::kFloat) {
      update_bias(bias->value.mutable_data_ptr<float>(), moe->load(), rate,
                  recipe_.train.balance.recenter_bias);
    } else {
      at::Tensor narrow = bias->value.to(at::kFloat);
      update_bias(narrow.mutable_data_ptr<float>(), moe->load(), rate, recipe_.train.balance.recenter_bias);
      bias->value.copy_(narrow);
    }
  }
}

void Trainer::judge_finite(const StepMetrics& metrics, bool finite) {
  if (finite) return;
  const std::string culprit = describe_nonfinite(registry_, world_.along(parallel::Dimension::world));
  const config::NanSection& policy = recipe_.train.nan;
  if (policy.action == config::NanAction::stop)
    throw NumericError("step {}: the loss or gradient is not finite ({}); train.nan.action is stop",
                       metrics.step, culprit);
  log::write(world_.is_first() ? log::Level::warning : log::Level::info,
             fmt::format("step {}: skipped, the loss or gradient is not finite ({})", metrics.step, culprit));
  if (state_.consecutive_skipped >= policy.stop_after)
    throw NumericError(
        "step {}: {} steps in a row were not finite ({}): lower the learning rate or go back to an earlier "
        "checkpoint",
        metrics.step, state_.consecutive_skipped, culprit);
}

void Trainer::save(bool training_goes_on) {
  if (saved_step_ == state_.step) return;
  store_->save(state_.step, registry_, state_.to_json(), training_goes_on);
  saved_step_ = state_.step;
}

RunEnd Trainer::run() {
  if (state_.step >= plan_.total_steps) {
    log::info("the run is finished: {} steps are done; raise train.steps to go on", state_.step);
    return RunEnd::finished;
  }
  std::unique_ptr<Record> record;
  if (world_.is_first()) record = std::make_unique<Record>(recipe_, plan_, state_.step);
  while (state_.step < plan_.total_steps && !is_stopping()) {
    world_.set_step(state_.step + 1);
    const int64_t skipped = state_.skipped_steps;
    StepMetrics metrics = train_step();
    const bool last = state_.step == plan_.total_steps;
    const bool due_eval = held_out_ && (state_.step % recipe_.train.eval_every == 0 || last);
    if (due_eval)
      metrics.eval_loss =
          evaluate(pipeline_, *held_out_, recipe_.train.micro_batch_size, recipe_.train.eval_batches, world_)
              .loss();
    if (record) record->step(metrics, load_);
    judge_finite(metrics, state_.skipped_steps == skipped);
    store_->poll();
    if (recipe_.checkpoint.every > 0 && state_.step % recipe_.checkpoint.every == 0) {
      save(!last);
      if (record) record->report(false);
    }
  }
  const bool finished = state_.step >= plan_.total_steps;
  if (!finished) log::info("stopping at step {}: saving", state_.step);
  save(false);
  store_->finish();
  if (!record) return finished ? RunEnd::finished : RunEnd::stopped;
  record->close(finished);
  log::info("{} at step {}; checkpoint {}, report {}", finished ? "finished" : "stopped", state_.step,
            (store_->directory() / checkpoint_name(state_.step)).string(),
            (recipe_.output_dir / "report.html").string());
  if (!finished) log::info("the same command continues from here");
  return finished ? RunEnd::finished : RunEnd::stopped;
}

}  // namespace

RunEnd pretrain(const config::Recipe& recipe) {
  config::refuse_unsupported(recipe);
  const parallel::LaunchEnvironment environment = parallel::read_launch_environment();
  ops::initialize_runtime(threads_of_rank(recipe, environment));
  make_directories(recipe.output_dir / "logs");
  log::set_file((recipe.output_dir / "logs" / fmt::format("rank_{}.log", environment.rank)).string());
  if (environment.rank > 0) log::set_terminal_level(log::Level::warning);
  parallel::World world(environment, recipe.parallel);
  check_shared_disk(recipe.output_dir, world.board());
  if (world.is_first()) write_text_file(recipe.output_dir / "recipe.yaml", recipe.resolved_yaml);
  const config::ParameterCounts counts = config::count_parameters(recipe.model);
  log::info("{}: {} parameters ({} a token), {}, {} threads, {}; sequence_aux_loss {}, bias_update_rate {}",
            recipe.file.filename().string(), format_count(static_cast<double>(counts.trunk + counts.mtp)),
            format_count(static_cast<double>(counts.activated)), config::name(recipe.train.precision),
            num_threads(), kernels::name(kernels::isa()), recipe.train.balance.sequence_aux_loss,
            recipe.train.balance.bias_update_rate.at(0));
  if (world.size() > 1)
    log::info("{} ranks, started by {}; this is rank {} ({}), process {}", world.size(), environment.launcher,
              world.rank(), world.layout().describe(world.rank()), ::getpid());
  const RunEnd end = Trainer(recipe, world).run();
  // Together: the first rank may hold the store that the others still ask.
  world.along(parallel::Dimension::world).barrier();
  return end;
}

}  // namespace fathom::train

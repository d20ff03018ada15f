// Contradictions between the keys of a recipe, and between a recipe and its model.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "config/recipe_visitor.h"
#include "config/stage_layers.h"

namespace fathom::config {
namespace {

class Checker {
 public:
  explicit Checker(const Recipe& recipe) : recipe_(recipe) {}

  void run(RecipeUse use) const {
    if (use == RecipeUse::training) {
      check_length();
      check_data();
    }
    check_batch();
    check_precision();
    check_lr();
    check_model();
    check_parallel();
    const CheckpointSection& checkpoint = recipe_.checkpoint;
    if (checkpoint.load_optimizer && checkpoint.load.empty())
      fail("checkpoint.load_optimizer", "is true, but checkpoint.load names no checkpoint");
  }

 private:
  [[noreturn]] void fail(const std::string& key, const std::string& problem) const {
    throw ConfigError("{}: {} {}", recipe_.file.string(), key, problem);
  }

  void check_length() const {
    const TrainSection& train = recipe_.train;
    const int given = (train.steps > 0) + (train.tokens > 0) + (train.epochs > 0);
    if (given != 1)
      fail("train", fmt::format("needs exactly one of steps, tokens, epochs; {} are given", given));
  }

  void check_batch() const {
    const TrainSection& train = recipe_.train;
    const int64_t unit = train.micro_batch_size * recipe_.parallel.data;
    for (const ScheduledValue::Piece& piece : train.global_batch_size.pieces)
      if (std::fmod(piece.value, static_cast<double>(unit)) != 0)
        fail("train.global_batch_size",
             fmt::format("is {}, not a multiple of train.micro_batch_size x parallel.data = {}", piece.value,
                         unit));
  }

  void check_precision() const {
    const TrainSection& train = recipe_.train;
    const bool is_free = train.precision == Precision::bf16 || train.precision == Precision::bf16_pure;
    if (train.grad_dtype == StateDtype::bf16 && !is_free)
      fail("train.grad_dtype",
           fmt::format("is bf16, which train.precision {} cannot keep: leave it out", name(train.precision)));
  }

  void check_lr() const {
    const TrainSection& train = recipe_.train;
    const LrSection& lr = train.lr;
    const LrSection fallback;
    if (lr.warmup_steps > 0 && lr.warmup_ratio > 0)
      fail("train.lr.warmup_ratio", "stands beside train.lr.warmup_steps: give one of them");
    if (train.steps > 0 && lr.warmup_steps > train.steps)
      fail("train.lr.warmup_steps",
           fmt::format("is {}, more than train.steps {}", lr.warmup_steps, train.steps));
    if (train.steps > 0 && lr.decay_steps > train.steps)
      fail("train.lr.decay_steps",
           fmt::format("is {}, more than train.steps {}", lr.decay_steps, train.steps));
    const bool is_falling = lr.schedule == LrScheduleKind::linear || lr.schedule == LrScheduleKind::cosine;
    if (is_falling && lr.decay_steps > 0 && lr.decay_steps < lr.warmup_steps)
      fail("train.lr.decay_steps",
           fmt::format("is {}, less than train.lr.warmup_steps {}", lr.decay_steps, lr.warmup_steps));
    if (lr.schedule == LrScheduleKind::wsd && train.steps > 0 &&
        lr.warmup_steps + lr.decay_steps > train.steps)
      fail("train.lr.decay_steps", fmt::format("and warmup_steps make {}, more than train.steps {}",
                                               lr.warmup_steps + lr.decay_steps, train.steps));
    const bool uses_min =
        is_falling || lr.schedule == LrScheduleKind::wsd || lr.schedule == LrScheduleKind::deepseek_v3;
    if (uses_min && lr.min > lr.peak)
      fail("train.lr.min", fmt::format("is {}, above train.lr.peak {}", lr.min, lr.peak));
    if (lr.schedule == LrScheduleKind::step && lr.step_at.empty())
      fail("train.lr.step_at", "is missing; schedule step needs the steps at which the rate falls");
    for (size_t i = 1; i < lr.step_at.size(); ++i)
      if (lr.step_at[i] <= lr.step_at[i - 1]) fail("train.lr.step_at", "must ascend");
    if (!(lr.hold_until <= lr.cosine_until && lr.cosine_until <= lr.low_until))
      fail("train.lr.hold_until", "<= cosine_until <= low_until must hold");

    const auto only_with = [&](LrScheduleKind kind, bool is_changed, const char* key, const char* schedule) {
      if (is_changed && lr.schedule != kind)
        fail(std::string("train.lr.") + key,
             std::string("has a meaning with schedule: ") + schedule + " only");
    };
    only_with(LrScheduleKind::step, !lr.step_at.empty(), "step_at", "step");
    only_with(LrScheduleKind::step, lr.step_factor != fallback.step_factor, "step_factor", "step");
    only_with(LrScheduleKind::wsd, lr.wsd_decay != fallback.wsd_decay, "wsd_decay", "wsd");
    only_with(LrScheduleKind::deepseek_v3, lr.hold_until != fallback.hold_until, "hold_until", "deepseek_v3");
    only_with(LrScheduleKind::deepseek_v3, lr.cosine_until != fallback.cosine_until, "cosine_until",
              "deepseek_v3");
    only_with(LrScheduleKind::deepseek_v3, lr.low_until != fallback.low_until, "low_until", "deepseek_v3");
    only_with(LrScheduleKind::deepseek_v3, lr.final != fallback.final, "final", "deepseek_v3");
  }

  void check_data() const {
    const DataSection& data = recipe_.data;
    double total = 0;
    for (const DataSource& source : data.train) total += source.weight;
    if (!(total > 0)) fail("data.train", "has no source with a weight above 0");
    check_split();
    if (!data.split.empty() && !data.valid.empty())
      fail("data.split", "stands beside data.valid: give one of them");
    if (recipe_.train.eval_every > 0 && data.valid.empty() && data.split.empty())
      fail("train.eval_every",
           fmt::format("is {}, but there is nothing to evaluate on: give data.valid or data.split",
                       recipe_.train.eval_every));
  }

  // "969,30,1": three weights, not all 0.
  void check_split() const {
    const std::string& split = recipe_.data.split;
    if (split.empty()) return;
    std::vector<double> parts;
    for (size_t begin = 0; begin <= split.size();) {
      const size_t end = std::min(split.find(',', begin), split.size());
      double part = -1;
      const auto [stop, error] = std::from_chars(split.data() + begin, split.data() + end, part);
      if (error != std::errc() || stop != split.data() + end || !(part >= 0) || !std::isfinite(part)) break;
      parts.push_back(part);
      begin = end + 1;
    }
    if (parts.size() != 3 || std::count(split.begin(), split.end(), ',') != 2 || !(parts[0] > 0))
      fail("data.split", fmt::format("is \"{}\"; write three weights, as \"969,30,1\"", split));
  }

  void check_model() const {
    const ModelConfig& model = recipe_.model;
    if (recipe_.data.seq_length > model.max_position_embeddings)
      fail("data.seq_length", fmt::format("is {}, more than model.max_position_embeddings {}",
                                          recipe_.data.seq_length, model.max_position_embeddings));
    if (recipe_.data.seq_length <= model.num_nextn_predict_layers)
      fail("data.seq_length", fmt::format("is {}, too short for {} MTP modules", recipe_.data.seq_length,
                                          model.num_nextn_predict_layers));
    bool has_rate = false;
    for (const ScheduledValue::Piece& piece : recipe_.train.balance.bias_update_rate.pieces)
      has_rate = has_rate || piece.value > 0;
    if (has_rate && !model.has_correction_bias())
      fail("train.balance.bias_update_rate",
           fmt::format("is above 0, but a {} model has no selection bias", model.model_type));
  }

  void check_parallel() const {
    const ParallelSection& parallel = recipe_.parallel;
    const auto& offset = parallel.layer_offset;
    if (!offset.empty() && static_cast<int64_t>(offset.size()) != parallel.pipeline)
      fail("parallel.layer_offset",
           fmt::format("has {} entries for parallel.pipeline {}", offset.size(), parallel.pipeline));
    if (std::accumulate(offset.begin(), offset.end(), int64_t{0}) != 0)
      fail("parallel.layer_offset", "does not sum to 0");
    const std::vector<int64_t> layers = stage_layers(recipe_.model, parallel);
    for (size_t stage = 0; stage < layers.size(); ++stage)
      if (layers[stage] < 0)
        fail("parallel.layer_offset",
             fmt::format("takes {} layers from stage {}, which has {} by the even split", -offset[stage],
                         stage, layers[stage] - offset[stage]));
    const RecomputeSection& recompute = recipe_.train.recompute;
    if (recompute.kind == RecomputeKind::per_stage) check_recompute(recompute.layers, layers);
    const int64_t group = parallel.data * parallel.tensor;
    if (group % (parallel.expert * parallel.expert_tensor) != 0)
      fail("parallel.expert", fmt::format("x expert_tensor = {} does not divide data x tensor = {}",
                                          parallel.expert * parallel.expert_tensor, group));
    if (recipe_.model.n_routed_experts > 0 && recipe_.model.n_routed_experts % parallel.expert != 0)
      fail("parallel.expert", fmt::format("is {}, which does not divide model.n_routed_experts {}",
                                          parallel.expert, recipe_.model.n_routed_experts));
    if (recipe_.model.num_attention_heads % parallel.tensor != 0)
      fail("parallel.tensor", fmt::format("is {}, which does not divide model.num_attention_heads {}",
                                          parallel.tensor, recipe_.model.num_attention_heads));
  }

  void check_recompute(const std::vector<int64_t>& recomputed, const std::vector<int64_t>& layers) const {
    if (recomputed.size() != layers.size())
      fail("train.recompute",
           fmt::format("lists {} stages for parallel.pipeline {}", recomputed.size(), layers.size()));
    for (size_t stage = 0; stage < layers.size(); ++stage)
      if (recomputed[stage] > layers[stage])
        fail("train.recompute",
             fmt::format("recomputes {} layers of stage {}, which holds {} (MTP modules included)",
                         recomputed[stage], stage, layers[stage]));
  }

  const Recipe& recipe_;
};

}  // namespace

void check_recipe(const Recipe& recipe, RecipeUse use) { Checker(recipe).run(use); }

}  // namespace fathom::config

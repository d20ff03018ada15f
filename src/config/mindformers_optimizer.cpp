// optimizer, lr_schedule, runner_wrapper: AdamW, the learning rate, clipping and skipped steps.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "config/mindformers_translation.h"

namespace fathom::config {
namespace {

const std::string kLr = "lr_schedule.";

void translate_adamw(Translation& t) {
  const std::string type = "optimizer.type", betas = "optimizer.betas", eps = "optimizer.eps",
                    decay = "optimizer.weight_decay";
  if (t.text(type, "AdamW") == "AdamW")
    t.carried(type, t.put("train.optimizer.type", "adamw"));
  else
    t.unsupported(type, "the optimizer is AdamW here", KeyEffect::blocks);
  t.know(betas);
  Json values = Json::array({0.9, 0.999});
  if (const Tree* node = t.find(betas)) values = node->to_json();
  t.carried(betas, t.put("train.optimizer.betas", values));
  t.carried(eps, t.put("train.optimizer.eps", t.number(eps, 1e-8)));
  const double weight_decay = t.number(decay, 0.0);
  t.carried(decay, t.put("train.optimizer.weight_decay", weight_decay),
            t.find(decay) ? "of matrices; norms and biases have none, as there"
                          : "left out there means none; DeepSeek's report has 0.1, Fathom's default");
  t.rest_is_meaningless("optimizer.use_fused", "one fused kernel anyway");
  t.rest_is_meaningless("optimizer.swap", "where states lie does not change the run");
}

// Steps that the schedule spans; 0: to the end of a run of unknown length.
int64_t translate_span(Translation& t) {
  const std::string total = kLr + "total_steps";
  const int64_t steps = t.integer(total, -1);
  if (steps <= 0) {
    if (t.find(total)) t.by_default(total, "the schedule spans the run");
    return t.steps;
  }
  if (t.steps > 0 && steps > t.steps)
    t.unsupported(
        total,
        fmt::format("the schedule would span {} steps, the run {}; it spans the run here", steps, t.steps),
        KeyEffect::blocks);
  else
    t.mapped(total, "train.lr.decay_steps, train.lr.warmup_steps", "the lengths below");
  return t.steps > 0 ? std::min(steps, t.steps) : steps;
}

// Returns the steps of the warm-up, -1 where they are a share of a run of unknown length.
int64_t translate_warmup(Translation& t, int64_t span) {
  const std::string ratio = kLr + "warmup_ratio", steps = kLr + "warmup_steps",
                    epochs = kLr + "warmup_epochs", start = kLr + "warmup_lr_init";
  const std::string shift = "the first step has peak / length here, 0 there";
  if (t.number(start, 0) != 0)
    t.unsupported(start, "the warm-up starts from 0", KeyEffect::blocks);
  else if (t.find(start))
    t.by_default(start, "the warm-up starts from 0");
  int64_t length = 0;
  std::string used = ratio;
  if (t.find(ratio)) {
    const double share = t.share(ratio, 0);
    if (t.find(steps)) t.meaningless(steps, "warmup_ratio comes first in MindFormers");
    if (span == 0) {
      t.mapped(ratio, t.put("train.lr.warmup_ratio", share), shift);
      if (t.find(epochs)) t.meaningless(epochs, "warmup_ratio comes first in MindFormers");
      return share == 0 ? 0 : -1;
    }
    length = static_cast<int64_t>(share * static_cast<double>(span));
  } else if (t.find(epochs)) {
    used = epochs;
    const double passes = t.number("runner_config.epochs", 1);
    if (t.steps == 0 || passes <= 0) {
      t.unsupported(epochs, "the steps of an epoch are not known here: give warmup_steps or warmup_ratio",
                    KeyEffect::blocks);
      return 0;
    }
    length = static_cast<int64_t>(std::min(t.number(epochs, 0), 1e6) * static_cast<double>(t.steps) / passes);
  } else {
    used = steps;
    length = t.integer(steps, 0);
  }
  if (t.find(epochs) && used != epochs) t.meaningless(epochs, used + " comes first in MindFormers");
  const std::string share = used == ratio ? fmt::format("of {} steps, rounded down", span) : "";
  t.carried(used, t.put("train.lr.warmup_steps", length), length > 0 ? shift : share);
  return length;
}

// Falling schedules: where the fall ends, and that nothing cuts it short.
void translate_fall(Translation& t, int64_t span) {
  if (t.integer(kLr + "total_steps", -1) > 0 && span > 0 && span != t.steps)
    t.put("train.lr.decay_steps", span);
  const std::string steps = kLr + "decay_steps", ratio = kLr + "decay_ratio", cycles = kLr + "num_cycles",
                    power = kLr + "power";
  if (t.find(steps)) {
    if (span > 0 && t.integer(steps, span) == span)
      t.by_default(steps, "the whole schedule");
    else
      t.unsupported(steps, "MindFormers cuts the curve off there; it falls to its end here",
                    KeyEffect::blocks);
  }
  if (t.find(ratio)) {
    if (t.number(ratio, 1) == 1)
      t.by_default(ratio, "the whole schedule");
    else
      t.unsupported(ratio, "MindFormers cuts the curve off there; it falls to its end here",
                    KeyEffect::blocks);
  }
  if (t.find(cycles)) {
    if (t.number(cycles, 0.5) == 0.5)
      t.by_default(cycles, "half a cosine");
    else
      t.unsupported(cycles, "the curve is half a cosine", KeyEffect::blocks);
  }
  if (t.find(power)) {
    if (t.number(power, 1) == 1)
      t.by_default(power, "a straight line");
    else
      t.unsupported(power, "the line is straight", KeyEffect::blocks);
  }
}

void translate_stable(Translation& t, int64_t span) {
  const std::string steps = kLr + "decay_start_steps", ratio = kLr + "decay_start_ratio";
  const std::string given = t.find(ratio) ? ratio : steps;
  t.know(steps);
  t.know(ratio);
  const double share = t.share(ratio, 0);
  if (span == 0 && (!t.find(ratio) || std::abs(share - 0.9) > 1e-12)) {
    t.unsupported(
        given,
        "the length of the run is not known here: give total_steps, or train.lr.decay_steps in the recipe",
        KeyEffect::blocks);
    return;
  }
  if (span == 0) {
    t.by_default(given, "the last tenth");
    return;
  }
  const int64_t start =
      t.find(ratio) ? static_cast<int64_t>(share * static_cast<double>(span)) : t.integer(steps, span);
  if (start >= span)
    t.unsupported(given, "starts to fall after the end of the run", KeyEffect::blocks);
  else
    t.mapped(given, t.put("train.lr.decay_steps", span - start));
}

// Warm-up, hold, cosine, two levels: the shape of DeepSeek-V3's own schedule.
void translate_cool_down(Translation& t, int64_t span, int64_t warmup) {
  const std::string keep = kLr + "keep_steps", decay = kLr + "decay_steps", rest = kLr + "final_steps",
                    low = kLr + "lr_end1", last = kLr + "lr_end2";
  const int64_t hold = t.integer(keep, 0), fall = t.integer(decay, span), tail = t.integer(rest, 0);
  const double low_rate = t.number(low, 0);
  t.carried(low, t.put("train.lr.min", low_rate));
  t.carried(last, t.put("train.lr.final", t.number(last, low_rate)));
  const auto end = static_cast<double>(t.steps);
  if (t.steps == 0 || warmup < 0 || warmup + hold + fall > t.steps) {
    t.unsupported(decay, "must end within a run whose length is known here (runner_config.epochs and sizes)",
                  KeyEffect::blocks);
    return;
  }
  const double held = static_cast<double>(warmup + hold) / end,
               fallen = static_cast<double>(warmup + hold + fall) / end;
  t.carried(keep, t.put("train.lr.hold_until", held));
  t.carried(decay, t.put("train.lr.cosine_until", fallen));
  t.carried(rest, t.put("train.lr.low_until", std::min(fallen + static_cast<double>(tail) / end, 1.0)));
}

void translate_lr(Translation& t) {
  const std::string type = kLr + "type", peak = kLr + "learning_rate", end = kLr + "lr_end",
                    own = "optimizer.learning_rate";
  const std::string kind = t.text(type, "CosineWithWarmUpLR");
  if (t.find(own)) t.meaningless(own, "MindFormers takes lr_schedule.learning_rate");
  t.carried(peak, t.put("train.lr.peak", t.number(peak, 5e-5)));
  const int64_t span = translate_span(t);
  const int64_t warmup = translate_warmup(t, span);
  const auto falls_to = [&](const char* schedule, double fallback) {
    t.carried(type, t.put("train.lr.schedule", schedule));
    t.carried(end, t.put("train.lr.min", t.number(end, fallback)));
  };
  if (kind == "CosineWithWarmUpLR") {
    falls_to("cosine", 0.0);
    translate_fall(t, span);
  } else if (kind == "LinearWithWarmUpLR") {
    t.carried(type, t.put("train.lr.schedule", "linear"));
    t.put("train.lr.min", 0.0);
    if (t.find(end)) t.meaningless(end, "MindFormers' line falls to 0 whatever this says");
    translate_fall(t, span);
  } else if (kind == "PolynomialWithWarmUpLR") {
    falls_to("linear", 1e-7);
    translate_fall(t, span);
  } else if (kind == "ConstantWarmUpLR") {
    t.carried(type, t.put("train.lr.schedule", "constant"));
    if (t.find(end)) t.meaningless(end, "MindFormers ignores it: the rate stays");
  } else if (kind == "WarmUpStableDecayLR") {
    falls_to("wsd", 1e-7);
    translate_stable(t, span);
  } else if (kind == "ConstantWithCoolDownLR") {
    t.carried(type, t.put("train.lr.schedule", "deepseek_v3"));
    translate_cool_down(t, span, warmup);
    translate_fall(t, span);
  } else {
    t.unsupported(type,
                  "known: ConstantWarmUpLR, CosineWithWarmUpLR, LinearWithWarmUpLR, PolynomialWithWarmUpLR, "
                  "WarmUpStableDecayLR, ConstantWithCoolDownLR; the recipe's is cosine",
                  KeyEffect::blocks);
  }
  for (const char* key : {"layer_scale", "lr_scale"}) {
    if (t.boolean(key, false))
      t.unsupported(key, "the rate is the same for every layer and batch size", KeyEffect::blocks);
    else
      t.rest_is_meaningless(key, "off");
  }
  t.rest_is_meaningless("layer_decay", "layer_scale is off");
  t.rest_is_meaningless("lr_scale_factor", "lr_scale is off");
}

void translate_wrapper(Translation& t) {
  const std::string wrapper = "runner_wrapper.", type = wrapper + "type", clip = wrapper + "use_clip_grad",
                    norm = wrapper + "max_grad_norm", scale = wrapper + "scale_sense";
  const std::string kind = t.text(type, "MFTrainOneStepCell");
  if (kind == "MFTrainOneStepCell" || kind == "MFPipelineWithLossScaleCell")
    t.rest_is_meaningless(type, "the training loop");
  else
    t.unsupported(type, "known: MFTrainOneStepCell, MFPipelineWithLossScaleCell", KeyEffect::blocks);
  // Without a runner_wrapper section, and with pipeline stages, MindFormers clips by default.
  const bool is_clipped = t.boolean(clip, t.pipeline > 1 || !t.find("runner_wrapper"));
  const std::string written = t.put("train.clip_grad_norm", is_clipped ? t.number(norm, 1.0) : 0.0);
  t.carried(clip, written);
  if (t.find(norm)) {
    if (is_clipped)
      t.mapped(norm, written);
    else
      t.meaningless(norm, "use_clip_grad is off");
  }
  t.rest_is_meaningless(
      scale, "bfloat16 and float32 need no loss scale; a step that is not finite is skipped, as there");
  const std::string token = wrapper + "calculate_per_token_loss";
  if (t.find(token)) {
    if (t.boolean(token, false))
      t.by_default(token, "losses are divided by the targets of the whole batch");
    else
      t.meaningless(token,
                    "losses are divided by the targets of the whole batch here; MindFormers averages the "
                    "micro-batches' means, the same where no target is masked");
  }
  const std::string skip = wrapper + "use_skip_data_by_global_norm";
  if (t.boolean(skip, false))
    t.unsupported(skip, "a large gradient is clipped, never skipped", KeyEffect::blocks);
  else
    t.rest_is_meaningless(skip, "off");
  t.rest_is_meaningless(wrapper + "global_norm_spike_threshold", "no steps are skipped by it");
  t.rest_is_meaningless(wrapper + "local_norm", "metrics.jsonl has the global norm");
  t.rest_is_meaningless(wrapper + "micro_batch_num", "MindFormers sets it itself");
}

}  // namespace

void translate_optimizer(Translation& t) {
  translate_adamw(t);
  translate_lr(t);
  translate_wrapper(t);
}

}  // namespace fathom::config

#include "train/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace fathom::train {
namespace {

using config::LrScheduleKind;

// From `high` at progress 0 to `low` at 1.
double linear(double high, double low, double progress) { return high + (low - high) * progress; }

double cosine(double high, double low, double progress) {
  return low + (high - low) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

double square_root(double high, double low, double progress) {
  return low + (high - low) * (1 - std::sqrt(progress));
}

// The share of [begin, end] that lies behind `position`; all of an empty range does.
double progress_in(double begin, double end, double position) {
  return end <= begin ? 1 : std::clamp((position - begin) / (end - begin), 0.0, 1.0);
}

double decayed_wsd(const config::LrSection& lr, int64_t warmup, int64_t step, int64_t total) {
  const int64_t decay = lr.decay_steps > 0
                            ? lr.decay_steps
                            : std::max<int64_t>(1, std::llround(static_cast<double>(total) / 10));
  const int64_t begin = std::max(total - decay, warmup);
  if (step < begin) return lr.peak;
  const double progress =
      progress_in(static_cast<double>(begin), static_cast<double>(total), static_cast<double>(step));
  if (lr.wsd_decay == "cosine") return cosine(lr.peak, lr.min, progress);
  if (lr.wsd_decay == "sqrt") return square_root(lr.peak, lr.min, progress);
  return linear(lr.peak, lr.min, progress);
}

double deepseek_v3(const config::LrSection& lr, int64_t warmup, int64_t step, int64_t total) {
  const auto s = static_cast<double>(step), t = static_cast<double>(total);
  const double hold_end = std::max(lr.hold_until * t, static_cast<double>(warmup));
  if (s < hold_end) return lr.peak;
  if (s < lr.cosine_until * t) return cosine(lr.peak, lr.min, progress_in(hold_end, lr.cosine_until * t, s));
  return s < lr.low_until * t ? lr.min : lr.final;
}

}  // namespace

int64_t warmup_steps(const config::LrSection& lr, int64_t total_steps) {
  if (lr.warmup_steps > 0) return lr.warmup_steps;
  return std::llround(lr.warmup_ratio * static_cast<double>(std::max<int64_t>(total_steps, 1)));
}

double learning_rate(const config::LrSection& lr, int64_t step, int64_t total_steps) {
  const int64_t total = std::max<int64_t>(total_steps, 1);
  const int64_t s = std::clamp<int64_t>(step, 0, total);
  const int64_t warmup = warmup_steps(lr, total);
  if (s < warmup) return lr.peak * static_cast<double>(s + 1) / static_cast<double>(warmup);
  const double decay_end = static_cast<double>(lr.decay_steps > 0 ? lr.decay_steps : total);
  switch (lr.schedule) {
    case LrScheduleKind::constant:
      return lr.peak;
    case LrScheduleKind::linear:
      return linear(lr.peak, lr.min,
                    progress_in(static_cast<double>(warmup), decay_end, static_cast<double>(s)));
    case LrScheduleKind::cosine:
      return cosine(lr.peak, lr.min,
                    progress_in(static_cast<double>(warmup), decay_end, static_cast<double>(s)));
    case LrScheduleKind::wsd:
      return decayed_wsd(lr, warmup, s, total);
    case LrScheduleKind::step: {
      const auto passed =
          std::count_if(lr.step_at.begin(), lr.step_at.end(), [s](int64_t at) { return at <= s; });
      return lr.peak * std::pow(lr.step_factor, static_cast<double>(passed));
    }
    case LrScheduleKind::deepseek_v3:
      return deepseek_v3(lr, warmup, s, total);
  }
  return lr.peak;
}

}  // namespace fathom::train

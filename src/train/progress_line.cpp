#include "train/progress_line.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/log.h"
#include "base/progress.h"
#include "base/sparkline.h"

namespace fathom::train {
namespace {

// Losses: four decimals while they fit.
std::string loss_text(double loss) {
  if (std::isnan(loss)) return "nan";
  return std::abs(loss) < 1e4 ? fmt::format("{:.4f}", loss) : fmt::format("{:.4g}", loss);
}

std::string norm_text(double norm) {
  return norm < 1e-2 || norm >= 1e3 ? fmt::format("{:.2e}", norm) : fmt::format("{:.2f}", norm);
}

std::string rate_text(double rate) {
  if (rate < 10) return fmt::format("{:.1f}", rate);
  return rate < 1e15 ? format_integer(std::llround(rate)) : fmt::format("{:.3g}", rate);
}

}  // namespace

std::string format_step_line(const StepMetrics& m, int64_t total_steps, double eta_s, int width) {
  struct Part {
    int need;  // the lowest goes first where there is no room
    std::string text;
  };
  std::vector<Part> parts = {{9, fmt::format("step {}/{}", m.step, total_steps)},
                             {9, fmt::format("loss {}", loss_text(m.loss))}};
  if (!std::isnan(m.eval_loss)) parts.push_back({8, fmt::format("eval {}", loss_text(m.eval_loss))});
  if (!std::isnan(m.mtp_loss)) parts.push_back({5, fmt::format("mtp {}", loss_text(m.mtp_loss))});
  if (!std::isnan(m.grad_norm)) parts.push_back({4, fmt::format("norm {}", norm_text(m.grad_norm))});
  parts.push_back({3, fmt::format("lr {:.2e}", m.lr)});
  parts.push_back({6, fmt::format("{} tok/s", rate_text(m.tokens_per_second))});
  if (!std::isnan(m.max_violation)) parts.push_back({2, fmt::format("maxvio {:.2f}", m.max_violation)});
  if (m.skipped > 0) parts.push_back({7, fmt::format("skipped {}", m.skipped)});
  if (eta_s >= 0) parts.push_back({7, "eta " + format_duration(eta_s)});

  const auto joined = [&parts] {
    std::string line;
    for (const Part& part : parts) {
      if (!line.empty()) line += "  ";
      line += part.text;
    }
    return line;
  };
  std::string line = joined();
  if (width <= 0) return line;
  // One column stays free: a cursor past the last one would wrap the line.
  const auto room = static_cast<size_t>(std::max(width - 1, 1));
  while (line.size() > room && parts.size() > 1) {
    parts.erase(std::min_element(parts.begin(), parts.end(),
                                 [](const Part& a, const Part& b) { return a.need < b.need; }));
    line = joined();
  }
  return line.substr(0, room);
}

std::string format_loss_curve(const std::vector<StepMetrics>& history, int width) {
  std::vector<double> losses;
  const StepMetrics* lowest = nullptr;
  for (const StepMetrics& m : history) {
    if (!std::isfinite(m.loss)) continue;
    losses.push_back(m.loss);
    if (!lowest || m.loss < lowest->loss) lowest = &m;
  }
  if (losses.empty()) return "";
  return fmt::format("loss {} {} {} (lowest {} at step {})", loss_text(losses.front()),
                     sparkline(losses, width), loss_text(losses.back()), loss_text(lowest->loss),
                     lowest->step);
}

int terminal_width() {
  struct winsize size;
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

ProgressLine::ProgressLine(int64_t total_steps, int64_t resume_step, int64_t log_every)
    : total_steps_(total_steps),
      first_step_(resume_step + 1),
      log_every_(std::max<int64_t>(log_every, 1)),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {}

void ProgressLine::step(const StepMetrics& m) {
  const auto now = std::chrono::steady_clock::now();
  // A mean over about the last fifty steps, and over all of them before that. The first step of a run is no
  // measure (threads and caches start), so its weight is small.
  const double share = m.step == first_step_ ? 0.05 : 1;
  weight_ = weight_ * 0.98 + share;
  step_s_ += (std::chrono::duration<double>(now - last_).count() - step_s_) * share / weight_;
  last_ = now;
  const double eta_s = static_cast<double>(std::max<int64_t>(total_steps_ - m.step, 0)) * step_s_;

  const bool is_event = !std::isnan(m.eval_loss) || m.skipped > skipped_ || m.step == total_steps_;
  const bool is_logged = is_event || m.step % log_every_ == 0 || m.step == first_step_;
  skipped_ = m.skipped;
  tokens_ += m.tokens;
  const std::string line = format_step_line(m, total_steps_, eta_s);
  if (is_event || (is_logged && !stderr_is_terminal())) {
    log::info("{}", line);
  } else if (is_logged) {
    log::write_to_file(line);
  }
  if (m.step < total_steps_) show_live_line(format_step_line(m, total_steps_, eta_s, terminal_width()));
}

void ProgressLine::finish(const std::vector<StepMetrics>& history) {
  clear_live_line();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const std::string curve = format_loss_curve(history, std::clamp(terminal_width() - 60, 10, 60));
  if (!curve.empty()) log::info("{}", curve);
  if (tokens_ > 0)
    log::info("{} tokens in {}, {} tok/s", format_integer(tokens_), format_duration(seconds),
              rate_text(static_cast<double>(tokens_) / std::max(seconds, 1e-9)));
}

}  // namespace fathom::train

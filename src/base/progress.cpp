#include "base/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <utility>

#include "base/log.h"

namespace fathom {
namespace {

bool live_line_shown = false;

std::string scaled(double value, const char* suffix) {
  static const char* const kPrefixes[] = {"", "k", "M", "G", "T", "P"};
  size_t i = 0;
  while (value >= 1000 && i + 1 < std::size(kPrefixes)) {
    value /= 1000;
    ++i;
  }
  return i == 0 ? fmt::format("{:.0f}{}", value, suffix)
                : fmt::format("{:.1f}{}{}", value, kPrefixes[i], suffix);
}

}  // namespace

std::string format_bytes(double bytes) {
  static const char* const kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  size_t i = 0;
  while (bytes >= 1000 && i + 1 < std::size(kUnits)) {
    bytes /= 1000;
    ++i;
  }
  return i == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, kUnits[i]);
}

std::string format_count(double count) { return scaled(count, ""); }

std::string format_integer(int64_t value) {
  const std::string digits = fmt::format("{}", value);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && digits[i - 1] != '-' && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string format_duration(double seconds) {
  if (seconds < 60) return fmt::format("{:.1f}s", seconds);
  const auto whole = static_cast<int64_t>(seconds);
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  return fmt::format("{}h{:02}m", whole / 3600, whole / 60 % 60);
}

bool stderr_is_terminal() { return ::isatty(STDERR_FILENO) == 1; }

void show_live_line(const std::string& line) {
  if (!stderr_is_terminal()) return;
  std::fprintf(stderr, "\r\x1b[2K%s", line.c_str());
  std::fflush(stderr);
  live_line_shown = true;
  log::set_before_line(clear_live_line);
}

void clear_live_line() {
  if (!live_line_shown) return;
  std::fputs("\r\x1b[2K", stderr);
  std::fflush(stderr);
  live_line_shown = false;
}

Progress::Progress(std::string title, uint64_t total, std::string unit)
    : title_(std::move(title)),
      unit_(std::move(unit)),
      total_(total),
      start_(std::chrono::steady_clock::now()),
      shown_(start_) {}

Progress::~Progress() {
  if (!finished_) clear_live_line();
}

double Progress::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void Progress::advance(uint64_t amount, const std::string& extra) {
  std::lock_guard lock(mutex_);
  done_ += amount;
  if (!extra.empty()) extra_ = extra;
  const auto now = std::chrono::steady_clock::now();
  const double pause = stderr_is_terminal() ? 0.1 : 5.0;
  if (std::chrono::duration<double>(now - shown_).count() < pause) return;
  shown_ = now;
  show(false);
}

void Progress::finish() {
  std::lock_guard lock(mutex_);
  if (finished_) return;
  finished_ = true;
  show(true);
}

void Progress::show(bool last) {
  const double elapsed = std::max(seconds(), 1e-9), rate = static_cast<double>(done_) / elapsed;
  const auto amount = [this](double x) {
    return unit_ == "B" ? format_bytes(x) : format_count(x) + " " + unit_;
  };
  std::string line = fmt::format("{}: {}", title_, amount(static_cast<double>(done_)));
  if (total_ > 0 && !last) {
    line += fmt::format(" of {} ({:.0f}%)", amount(static_cast<double>(total_)),
                        100.0 * static_cast<double>(done_) / static_cast<double>(total_));
  }
  line += fmt::format(", {}/s", amount(rate));
  if (!extra_.empty()) line += ", " + extra_;
  if (last) {
    line += ", " + format_duration(elapsed);
  } else if (total_ > done_ && rate > 0) {
    line += ", ETA " + format_duration(static_cast<double>(total_ - done_) / rate);
  }
  if (last || !stderr_is_terminal()) {
    log::info("{}", line);
  } else {
    show_live_line(line);
  }
}

}  // namespace fathom

// Progress of long work on stderr: one rewritten line on a terminal (rate, ETA), a plain line every few
// seconds elsewhere. Thread-safe advance(); the display is removed before any log line.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace fathom {

std::string format_bytes(double bytes);       // "1.2 GB" (decimal)
std::string format_duration(double seconds);  // "4.2s", "3m05s", "2h10m"
std::string format_count(double count);       // "1.2k", "3.4M"
std::string format_integer(int64_t value);    // "12,345"
bool stderr_is_terminal();

class Progress {
 public:
  // `unit` is "B" for bytes (rates in MB/s) or a word such as "tokens". total 0: unknown.
  Progress(std::string title, uint64_t total, std::string unit);
  ~Progress();
  void advance(uint64_t amount, const std::string& extra = "");
  void finish();
  double seconds() const;

 private:
  void show(bool last);
  std::string title_, unit_, extra_;
  uint64_t total_, done_ = 0;
  std::chrono::steady_clock::time_point start_, shown_;
  std::mutex mutex_;
  bool finished_ = false;
};

// A single live line that others may overwrite (the trainer's); nothing is printed where stderr is no
// terminal.
void show_live_line(const std::string& line);
void clear_live_line();

}  // namespace fathom

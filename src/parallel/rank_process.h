// One rank as a child process of the launcher: its output, its heartbeat, its end.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "parallel/heartbeat.h"

namespace fathom::parallel {

class RankProcess {
 public:
  // Starts `command` with `environment` added. keeps_terminal: its standard output and error are the launcher's; else
  // they are read here. It gets a process group of its own (the terminal's Ctrl-C reaches the launcher alone) and dies
  // with this process. Throws FileError.
  RankProcess(int64_t rank, const std::vector<std::string>& command,
              const std::map<std::string, std::string>& environment, bool keeps_terminal);
  ~RankProcess();  // kills and reaps
  RankProcess(const RankProcess&) = delete;
  RankProcess& operator=(const RankProcess&) = delete;

  int64_t rank() const { return rank_; }
  int output() const { return output_; }  // to poll for reading; -1: closed, or the terminal's
  void read_output();                     // shows warnings and errors, keeps the last lines
  void signal(int number);
  // Takes note of the process's end; the exit code, 128 + N for signal N. nullopt: it runs.
  std::optional<int> poll_end();
  std::string end_in_words() const;  // "ended with code 1", "was killed by signal 9 (Killed)"
  const std::deque<std::string>& last_lines() const { return lines_; }

  double silence_seconds();                     // since its heartbeat last moved; 0 before the first beat
  int64_t step() const { return page_->step; }  // that it is in; -1: none yet
  bool has_done_a_step() const { return page_->step > page_->first_step; }
  std::string doing() const;  // "in all_reduce over data" or "computing"

 private:
  void take_line(const std::string& line);
  int64_t rank_;
  pid_t process_ = -1;
  int output_ = -1, heartbeat_ = -1;
  HeartbeatPage* page_ = nullptr;
  uint64_t seen_beats_ = 0;
  double seen_at_ = 0;
  std::optional<int> status_;
  std::string partial_line_;
  std::deque<std::string> lines_;
};

}  // namespace fathom::parallel

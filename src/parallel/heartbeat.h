// What a rank shows its launcher: a counter that moves while the process runs, the step and the collective it is in.
// Kept in a page that both map; a stopped process (SIGSTOP, a dead disk) stops counting, and the launcher says what it
// was doing. Without a launcher all of it does nothing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace fathom::parallel {

inline constexpr const char* kHeartbeatVariable = "FATHOM_HEARTBEAT";  // the page's path, set by the launcher

// The page; both sides map it.
struct HeartbeatPage {
  volatile uint64_t beats = 0;
  volatile int64_t first_step = -1,
                   step = -1;     // the first of this process, and the one it is in; -1: none yet
  volatile char doing[112] = {};  // "all_reduce over data", empty: computing
};

class Heartbeat {
 public:
  // Starts counting once a second where kHeartbeatVariable is set; once a process.
  static void start();
  static void set_step(int64_t step);

  class InCollective {
   public:
    InCollective(const std::string& group, const char* collective);
    ~InCollective();
    InCollective(const InCollective&) = delete;
    InCollective& operator=(const InCollective&) = delete;

   private:
    std::string text_;
  };
};

// Maps (and with `create` makes) a page. Throws FileError.
HeartbeatPage* map_heartbeat(const std::filesystem::path& path, bool create);
void unmap_heartbeat(HeartbeatPage* page);

}  // namespace fathom::parallel

#include "base/log.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>

#include "base/error.h"

namespace fathom::log {
namespace {

struct Sink {
  std::mutex mutex;
  Level minimum = Level::info, terminal_minimum = Level::debug;
  std::unique_ptr<FILE, int (*)(FILE*)> file{nullptr, std::fclose};
  void (*before_line)() = nullptr;
};

Sink& sink() {
  static Sink instance;
  return instance;
}

const char* prefix(Level level) {
  switch (level) {
    case Level::warning:
      return "warning: ";
    case Level::error:
      return "error: ";
    default:
      return "";
  }
}

}  // namespace

void set_level(Level minimum) { sink().minimum = minimum; }

void set_terminal_level(Level minimum) { sink().terminal_minimum = minimum; }

void set_file(const std::string& path) {
  std::lock_guard lock(sink().mutex);
  sink().file.reset();
  if (path.empty()) return;
  sink().file.reset(std::fopen(path.c_str(), "a"));
  if (!sink().file) throw FileError("cannot write the log file {}: {}", path, std::strerror(errno));
}

void set_before_line(void (*hook)()) { sink().before_line = hook; }

void write(Level level, const std::string& message) {
  Sink& s = sink();
  if (level < s.minimum) return;
  std::lock_guard lock(s.mutex);
  if (level >= s.terminal_minimum) {
    if (s.before_line) s.before_line();
    std::fprintf(stderr, "%s%s\n", prefix(level), message.c_str());
  }
  if (s.file) {
    std::fprintf(s.file.get(), "%s%s\n", prefix(level), message.c_str());
    std::fflush(s.file.get());
  }
}

void write_to_file(const std::string& message) {
  Sink& s = sink();
  std::lock_guard lock(s.mutex);
  if (!s.file) return;
  std::fprintf(s.file.get(), "%s\n", message.c_str());
  std::fflush(s.file.get());
}

}  // namespace fathom::log

// Messages for the person, on stderr: info, warning, error; --json output on stdout stays clean.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

namespace fathom::log {

enum class Level { debug, info, warning, error };

void set_level(Level minimum);
// What goes to stderr alone; the file gets all from set_level's on.
void set_terminal_level(Level minimum);
// Also append every line to this file (empty: stop). The file is created; throws FileError if it cannot be.
void set_file(const std::string& path);
void write(Level level, const std::string& message);
void write_to_file(const std::string& message);  // to set_file's file only, if there is one
// A line under which no progress display may remain; used by base/progress.h.
void set_before_line(void (*hook)());

template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::info, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace fathom::log

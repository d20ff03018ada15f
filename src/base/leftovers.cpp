#include "base/leftovers.h"

#include <cerrno>
#include <charconv>
#include <csignal>
#include <string>
#include <system_error>
#include <vector>

#include "base/log.h"

namespace fathom {
namespace {

bool is_gone(const std::string& digits) {
  int process = 0;
  const char* end = digits.data() + digits.size();
  const auto parsed = std::from_chars(digits.data(), end, process);
  return parsed.ec == std::errc() && parsed.ptr == end && process > 0 && ::kill(process, 0) != 0 &&
         errno == ESRCH;
}

}  // namespace

void remove_dead_temporaries(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  const std::string mark = path.filename().string() + ".tmp-";
  std::vector<std::filesystem::path> found;
  std::error_code error;
  for (std::filesystem::directory_iterator item(folder, error), end; !error && item != end;
       item.increment(error)) {
    const std::string name = item->path().filename().string();
    if (name.starts_with(mark) && is_gone(name.substr(mark.size()))) found.push_back(item->path());
  }
  for (const std::filesystem::path& leftover : found)
    if (std::filesystem::remove(leftover, error))
      log::info("removed {}, which a killed process left unfinished", leftover.string());
}

}  // namespace fathom

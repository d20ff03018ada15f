#include "train/step_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

namespace fathom::train {
namespace {

// The record of a line, if it is a whole one.
std::optional<std::pair<int64_t, SortedJson>> parse_record(std::string_view line) {
  SortedJson record = SortedJson::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!record.is_object()) return std::nullopt;
  const auto step = record.find("step");
  if (step == record.end() || !step->is_number_integer()) return std::nullopt;
  const auto number = step->get<int64_t>();
  return std::pair{number, std::move(record)};
}

// Calls use(line, is_terminated) for each line that is not empty.
template <typename Use>
void for_each_line(std::string_view text, const Use& use) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const bool is_terminated = end != std::string_view::npos;
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(is_terminated ? end + 1 : text.size());
    if (!line.empty()) use(line, is_terminated);
  }
}

struct Kept {
  int64_t step;
  std::string_view line;
};

// What a run resumed after `resume_step` keeps of a log's text.
std::vector<Kept> lines_to_keep(std::string_view text, int64_t resume_step, const fs::path& path) {
  std::vector<Kept> kept;
  int64_t damaged = 0;
  for_each_line(text, [&](std::string_view line, bool is_terminated) {
    if (!is_terminated) return;
    const auto record = parse_record(line);
    if (!record) {
      ++damaged;
      return;
    }
    if (record->first > resume_step) return;
    while (!kept.empty() && kept.back().step >= record->first) kept.pop_back();
    kept.push_back({record->first, line});
  });
  if (damaged > 0)
    log::warning("{}: {} damaged line{} removed (no JSON object with a step)", path.string(), damaged,
                 damaged == 1 ? "" : "s");
  return kept;
}

}  // namespace

StepLog::StepLog(const fs::path& path, int64_t resume_step) : path_(path) {
  if (fs::exists(path)) {
    const MappedFile old(path);
    const std::vector<Kept> kept = lines_to_keep(old.text(), resume_step, path);
    size_t bytes = 0;
    for (const Kept& record : kept) bytes += record.line.size() + 1;
    if (bytes != old.size()) {
      AtomicFile rewritten(path);
      for (const Kept& record : kept) {
        rewritten.write(record.line);
        rewritten.write("\n");
      }
      rewritten.commit();
    }
  }
  fd_ = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) throw FileError("cannot write {}: {}", path.string(), std::strerror(errno));
}

StepLog::~StepLog() {
  if (fd_ >= 0) ::close(fd_);
}

void StepLog::append(std::string_view line) {
  struct stat before;
  const bool has_size = ::fstat(fd_, &before) == 0;
  const std::string record = std::string(line) + '\n';
  size_t done = 0;
  while (done < record.size()) {
    const ssize_t n = ::write(fd_, record.data() + done, record.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int cause = errno;
      // Half a record would make the next one unreadable.
      if (has_size && done > 0 && ::ftruncate(fd_, before.st_size) != 0)
        log::warning("{} ends with half a record", path_.string());
      throw FileError("cannot write {}: {}", path_.string(), std::strerror(cause));
    }
    done += static_cast<size_t>(n);
  }
}

void read_step_log(const fs::path& path, const std::function<void(int64_t, const SortedJson&)>& use) {
  if (!fs::exists(path)) return;
  const MappedFile file(path);
  for_each_line(file.text(), [&](std::string_view line, bool is_terminated) {
    if (!is_terminated) return;
    if (const auto record = parse_record(line)) use(record->first, record->second);
  });
}

std::string json_number(double value) { return std::isfinite(value) ? fmt::format("{}", value) : "null"; }

double number_or_nan(const SortedJson& record, const char* key) {
  const auto found = record.find(key);
  return found != record.end() && found->is_number() ? found->get<double>()
                                                     : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace fathom::train

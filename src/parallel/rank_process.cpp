#include "parallel/rank_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/error.h"
#include "base/log.h"

extern char** environ;

namespace fathom::parallel {
namespace {

constexpr size_t kKeptLines = 20;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// This process's environment with `added` in place of variables of the same names.
std::vector<std::string> merged_environment(const std::map<std::string, std::string>& added) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry; ++entry) {
    const std::string text = *entry;
    if (!added.contains(text.substr(0, text.find('=')))) result.push_back(text);
  }
  for (const auto& [name, value] : added) result.push_back(fmt::format("{}={}", name, value));
  return result;
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  result.reserve(texts.size() + 1);
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

}  // namespace

RankProcess::RankProcess(int64_t rank, const std::vector<std::string>& command,
                         const std::map<std::string, std::string>& environment, bool keeps_terminal)
    : rank_(rank) {
  // A page in memory that the child inherits as an open file: nothing lies on disk.
  heartbeat_ = ::memfd_create("fathom-heartbeat", 0);
  if (heartbeat_ < 0) throw FileError("cannot make the heartbeat of rank {}: {}", rank, std::strerror(errno));
  const std::string path = fmt::format("/proc/self/fd/{}", heartbeat_);
  page_ = map_heartbeat(path, true);
  std::map<std::string, std::string> added = environment;
  added[kHeartbeatVariable] = path;
  const std::vector<std::string> variables = merged_environment(added);
  const std::vector<char*> arguments = pointers(command), environment_pointers = pointers(variables);
  std::array<int, 2> pipe = {-1, -1};
  if (!keeps_terminal && ::pipe2(pipe.data(), O_CLOEXEC) != 0)
    throw FileError("cannot make a pipe for rank {}: {}", rank, std::strerror(errno));
  const pid_t parent = ::getpid();
  process_ = ::fork();
  if (process_ == 0) {
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);  // it died before the line above
    if (!keeps_terminal) {
      ::dup2(pipe[1], STDOUT_FILENO);
      ::dup2(pipe[1], STDERR_FILENO);
    }
    ::signal(SIGINT, SIG_DFL);
    ::signal(SIGTERM, SIG_DFL);
    ::execve(arguments[0], arguments.data(), environment_pointers.data());
    ::_exit(127);
  }
  const int error = errno;
  if (pipe[1] >= 0) ::close(pipe[1]);
  output_ = pipe[0];
  ::close(heartbeat_);
  if (process_ < 0) throw FileError("cannot start rank {}: {}", rank, std::strerror(error));
  ::setpgid(process_, process_);
  if (output_ >= 0) ::fcntl(output_, F_SETFL, O_NONBLOCK);
  seen_at_ = now();
}

RankProcess::~RankProcess() {
  if (process_ > 0 && !status_) {
    ::kill(-process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }
  if (output_ >= 0) ::close(output_);
  if (page_) unmap_heartbeat(page_);
}

void RankProcess::take_line(const std::string& line) {
  if (line.starts_with("error: ") || line.starts_with("warning: ")) log::info("[rank {}] {}", rank_, line);
  lines_.push_back(line);
  if (lines_.size() > kKeptLines) lines_.pop_front();
}

void RankProcess::read_output() {
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t count = ::read(output_, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) break;
    for (ssize_t i = 0; i < count; ++i) {
      if (buffer[static_cast<size_t>(i)] != '\n') {
        partial_line_ += buffer[static_cast<size_t>(i)];
        continue;
      }
      take_line(partial_line_);
      partial_line_.clear();
    }
  }
  if (!partial_line_.empty()) take_line(partial_line_);
  partial_line_.clear();
  ::close(output_);
  output_ = -1;
}

void RankProcess::signal(int number) {
  if (!status_) ::kill(-process_, number);
}

std::optional<int> RankProcess::poll_end() {
  int status = 0;
  if (!status_ && ::waitpid(process_, &status, WNOHANG) == process_) status_ = status;
  if (!status_) return std::nullopt;
  return WIFSIGNALED(*status_) ? 128 + WTERMSIG(*status_) : WEXITSTATUS(*status_);
}

std::string RankProcess::end_in_words() const {
  if (!status_) return "runs";
  if (WIFSIGNALED(*status_))
    return fmt::format("was killed by signal {} ({})", WTERMSIG(*status_), ::strsignal(WTERMSIG(*status_)));
  return fmt::format("ended with code {}", WEXITSTATUS(*status_));
}

double RankProcess::silence_seconds() {
  const uint64_t beats = page_->beats;
  if (beats != seen_beats_ || beats == 0) {
    seen_beats_ = beats;
    seen_at_ = now();
  }
  return now() - seen_at_;
}

std::string RankProcess::doing() const {
  std::string text;
  for (const volatile char& c : page_->doing) {
    if (c == 0) break;
    text += c;
  }
  return text.empty() ? "computing" : "in " + text;
}

}  // namespace fathom::parallel

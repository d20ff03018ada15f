// A program as a user starts it: arguments, working directory, its standard output and error, its end.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace fathom::test {

inline std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct ProcessEnd {
  int exit_code = -1;  // -1: ended by a signal
  int signal = 0;
  std::string out, err;
};

class Process {
 public:
  // Output goes to files in `directory`, which is also the working directory. `in_child` runs between fork
  // and exec (limits, another user); when it returns false the child ends with code 125.
  Process(const std::filesystem::path& directory, std::vector<std::string> words,
          const std::function<bool()>& in_child = nullptr)
      : out_(directory / "stdout.txt"), err_(directory / "stderr.txt") {
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const int out = ::open(out_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    const int err = ::open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (out < 0 || err < 0) throw std::runtime_error("cannot write into " + directory.string());
    id_ = ::fork();
    if (id_ == 0) {
      ::dup2(out, STDOUT_FILENO);
      ::dup2(err, STDERR_FILENO);
      ::close(out), ::close(err);
      if (::chdir(directory.c_str()) != 0 || (in_child && !in_child())) ::_exit(125);
      ::execv(arguments[0], arguments.data());
      ::_exit(127);
    }
    ::close(out), ::close(err);
    if (id_ < 0) throw std::runtime_error("cannot fork");
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (is_running_) ::kill(id_, SIGKILL), wait();
  }

  pid_t id() const { return id_; }
  void send(int signal) const { ::kill(id_, signal); }

  // Whether it still runs; takes its end if not.
  bool is_running() {
    if (is_running_ && ::waitpid(id_, &status_, WNOHANG) == id_) is_running_ = false;
    return is_running_;
  }

  ProcessEnd wait() {
    while (is_running_ && ::waitpid(id_, &status_, 0) < 0) {
    }
    is_running_ = false;
    ProcessEnd end;
    if (WIFEXITED(status_)) end.exit_code = WEXITSTATUS(status_);
    if (WIFSIGNALED(status_)) end.signal = WTERMSIG(status_);
    end.out = text_of(out_);
    end.err = text_of(err_);
    return end;
  }

 private:
  std::filesystem::path out_, err_;
  pid_t id_ = -1;
  int status_ = 0;
  bool is_running_ = true;
};

}  // namespace fathom::test

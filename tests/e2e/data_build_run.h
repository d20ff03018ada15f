// `fathom data build` through the binary, on corpora made on the spot.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zlib.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "data/builder.h"
#include "data/corpus.h"
#include "support/process.h"
#include "support/scratch.h"

namespace fathom::test {

// Prose-like text: words of 1 to 9 letters, numbers, punctuation, line ends.
inline std::string prose(size_t bytes, uint64_t seed) {
  static const std::string kEnds[] = {" ", " ", " ", " ", " ", ", ", ". ", ".\n", "\n\n", " 1984 "};
  std::string text;
  for (uint64_t draw = 0; text.size() < bytes; draw += 2) {
    auto bits = static_cast<uint64_t>(uniform(seed, draw) * 1e15);
    for (uint64_t length = bits % 9 + 1; length > 0; --length, bits /= 7)
      text += "etaoinshrdlucmfw"[bits % 16];
    text += kEnds[static_cast<size_t>(uniform(seed, draw + 1) * std::size(kEnds))];
  }
  return text;
}

class DataBuildRun {
 public:
  const std::filesystem::path& directory() const { return scratch_.path(); }
  std::filesystem::path operator/(const std::string& name) const { return scratch_ / name; }
  void put(const std::string& name, const std::string& content) const {
    make_directories((scratch_ / name).parent_path());
    write_text_file(scratch_ / name, content);
  }
  // A file of `copies` times `text`, with something before and behind.
  void put_long(const std::string& name, const std::string& before, const std::string& text, int copies,
                const std::string& behind) const {
    std::ofstream file(scratch_ / name, std::ios::binary);
    file << before;
    for (int i = 0; i < copies; ++i) file << text;
    file << behind;
  }
  void put_gzip(const std::string& name, const std::string& content) const {
    const gzFile file = ::gzopen((scratch_ / name).c_str(), "wb1");
    EXPECT_EQ(::gzwrite(file, content.data(), static_cast<unsigned>(content.size())),
              static_cast<int>(content.size()));
    ::gzclose(file);
  }

  // Each process has a directory of its own for its output; paths are relative to the common one.
  std::unique_ptr<Process> start(const std::vector<std::string>& arguments,
                                 const std::function<bool()>& in_child = nullptr) {
    std::vector<std::string> words = {FATHOM_BINARY};
    words.insert(words.end(), arguments.begin(), arguments.end());
    const std::filesystem::path logs = scratch_ / fmt::format("log{}", processes_++);
    make_directories(logs);
    const std::string here = directory().string();
    return std::make_unique<Process>(
        logs, words, [here, in_child] { return ::chdir(here.c_str()) == 0 && (!in_child || in_child()); });
  }
  ProcessEnd run(const std::vector<std::string>& arguments, const std::function<bool()>& in_child = nullptr) {
    return start(arguments, in_child)->wait();
  }
  static std::vector<std::string> build_arguments(const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"data", "build", "--tokenizer",
                                          FATHOM_SOURCE_DIR "/assets/tokenizer"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  ProcessEnd build(const std::vector<std::string>& more, const std::function<bool()>& in_child = nullptr) {
    return run(build_arguments(more), in_child);
  }

  std::string pair(const std::string& prefix) const {
    return text_of(scratch_ / (prefix + ".bin")) + text_of(scratch_ / (prefix + ".idx"));
  }

 private:
  ScratchDirectory scratch_;
  int processes_ = 0;
};

// In a child: private memory is at most what the builder states, and the kernel says no to more.
inline std::function<bool()> within_stated_memory(int workers) {
  return [workers] {
    const rlimit limit = {
        data::kBuildMemoryBytes + data::kBuildMemoryBytesPerWorker * static_cast<uint64_t>(workers),
        RLIM_INFINITY};
    return ::setrlimit(RLIMIT_DATA, &limit) == 0;
  };
}

}  // namespace fathom::test

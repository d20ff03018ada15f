#include "parallel/heartbeat.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "base/error.h"

namespace fathom::parallel {
namespace {

std::atomic<HeartbeatPage*> own_page{nullptr};

// What the threads of this rank wait in; the newest is shown.
std::mutex marks_mutex;
std::vector<std::string> marks;

void show_newest() {
  HeartbeatPage* page = own_page.load();
  const std::string text = marks.empty() ? "" : marks.back();
  const size_t count = std::min(text.size(), sizeof page->doing - 1);
  page->doing[0] = 0;
  for (size_t i = count; i-- > 0;) page->doing[i] = text[i];
  page->doing[count] = 0;
}

}  // namespace

HeartbeatPage* map_heartbeat(const std::filesystem::path& path, bool create) {
  const int descriptor =
      ::open(path.c_str(), create ? O_RDWR | O_CREAT | O_CLOEXEC : O_RDWR | O_CLOEXEC, 0600);
  if (descriptor < 0) throw FileError("cannot open {}: {}", path.string(), std::strerror(errno));
  void* memory = MAP_FAILED;
  if (!create || ::ftruncate(descriptor, sizeof(HeartbeatPage)) == 0)
    memory = ::mmap(nullptr, sizeof(HeartbeatPage), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  const int error = errno;
  ::close(descriptor);
  if (memory == MAP_FAILED) throw FileError("cannot map {}: {}", path.string(), std::strerror(error));
  return create ? new (memory) HeartbeatPage : static_cast<HeartbeatPage*>(memory);
}

void unmap_heartbeat(HeartbeatPage* page) { ::munmap(page, sizeof(HeartbeatPage)); }

void Heartbeat::start() {
  const char* path = std::getenv(kHeartbeatVariable);
  if (!path || own_page.load()) return;
  own_page = map_heartbeat(path, false);
  std::thread([page = own_page.load()] {
    for (;;) {
      page->beats = page->beats + 1;
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  }).detach();
}

void Heartbeat::set_step(int64_t step) {
  HeartbeatPage* page = own_page.load();
  if (!page) return;
  if (page->first_step < 0) page->first_step = step;
  page->step = step;
}

Heartbeat::InCollective::InCollective(const std::string& group, const char* collective) {
  if (!own_page.load()) return;
  text_ = fmt::format("{} over {}", collective, group);
  const std::lock_guard lock(marks_mutex);
  marks.push_back(text_);
  show_newest();
}

Heartbeat::InCollective::~InCollective() {
  if (text_.empty()) return;
  const std::lock_guard lock(marks_mutex);
  marks.erase(std::find(marks.rbegin(), marks.rend(), text_).base() - 1);
  show_newest();
}

}  // namespace fathom::parallel

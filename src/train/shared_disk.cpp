#include "train/shared_disk.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/host_name.h"

namespace fathom::train {
namespace {

// Network file systems may show a new file late.
bool appears(const fs::path& file) {
  std::error_code ignored;
  for (int tries = 0; tries < 50; ++tries) {
    if (fs::exists(file, ignored)) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return false;
}

std::string sight_note(int64_t rank) { return fmt::format("disk/seen/{}", rank); }

}  // namespace

void check_shared_disk(const fs::path& output_dir, parallel::NoticeBoard& board) {
  if (board.size() == 1) return;
  if (!board.is_first()) {
    const fs::path token = output_dir / board.read("disk/token", 0);
    board.post(sight_note(board.rank()), appears(token) ? "" : host_name());
  } else {
    const std::string name = fmt::format(".shared.{}-{:08x}.tmp", ::getpid(), std::random_device{}());
    write_text_file(output_dir / name, "written by rank 0 for the others to see\n");
    board.post("disk/token", name);
    std::string verdict;
    for (int64_t rank = 1; rank < board.size(); ++rank) {
      const std::string blind = board.read(sight_note(rank), rank);
      if (!blind.empty() && verdict.empty())
        verdict = fmt::format(
            "output_dir {}: rank {} on {} does not see what rank 0 on {} writes there: the disks of the "
            "hosts are "
            "not shared; give an output_dir that all ranks see",
            fs::absolute(output_dir).string(), rank, blind, host_name());
    }
    std::error_code ignored;
    fs::remove(output_dir / name, ignored);
    board.post("disk/verdict", verdict);
  }
  const std::string verdict = board.read("disk/verdict", 0);
  if (!verdict.empty()) throw FileError("{}", verdict);
}

}  // namespace fathom::train

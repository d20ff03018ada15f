#include "base/directory_lock.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "support/scratch.h"

namespace fathom {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(DirectoryLock, names_its_holder_and_leaves_nothing_behind) {
  const test::ScratchDirectory scratch;
  {
    DirectoryLock lock(scratch.path(), "works here");
    const std::string holder = fmt::format("process {} on ", ::getpid());
    EXPECT_THAT([&] { DirectoryLock(scratch.path(), "works here"); },
                ThrowsMessage<FileError>(AllOf(HasSubstr(holder), HasSubstr(" works here"))));
    const DirectoryLock moved = std::move(lock);
    EXPECT_THROW(DirectoryLock(scratch.path(), ""), FileError);
  }
  EXPECT_TRUE(fs::is_empty(scratch.path()));
  EXPECT_THROW(DirectoryLock(scratch / "missing", ""), FileError);
}

TEST(DirectoryLock, goes_with_a_killed_process) {
  const test::ScratchDirectory scratch;
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const DirectoryLock lock(scratch.path(), "");
    const char held = 'x';
    if (::write(pipe_ends[1], &held, 1) == 1) ::pause();
    ::_exit(1);
  }
  char held = 0;
  ASSERT_EQ(::read(pipe_ends[0], &held, 1), 1);
  EXPECT_THAT([&] { DirectoryLock(scratch.path(), "works here"); },
              ThrowsMessage<FileError>(HasSubstr(fmt::format("process {} on ", child))));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(fs::exists(scratch / DirectoryLock::kFileName));
  EXPECT_NO_THROW(DirectoryLock(scratch.path(), ""));
  ::close(pipe_ends[0]), ::close(pipe_ends[1]);
}

// A file removed by its last holder must not keep anybody out, nor let two in.
TEST(DirectoryLock, a_removed_file_is_not_the_lock) {
  const test::ScratchDirectory scratch;
  std::optional<DirectoryLock> first(std::in_place, scratch.path(), "");
  fs::remove(scratch / DirectoryLock::kFileName);
  const DirectoryLock second(scratch.path(), "");
  first.reset();
  EXPECT_TRUE(fs::exists(scratch / DirectoryLock::kFileName)) << "of the second";
  EXPECT_THROW(DirectoryLock(scratch.path(), ""), FileError);
}

}  // namespace
}  // namespace fathom

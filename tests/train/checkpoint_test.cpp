#include "train/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/inspect.h"
#include "formats/checkpoint_manifest.h"
#include "support/scratch.h"
#include "support/tiny_registry.h"

namespace fathom::train {
namespace {

using config::CheckpointSection;
using config::Precision;
using test::ScratchDirectory;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::unique_ptr<weights::ParameterRegistry> make_registry(Precision precision = Precision::bf16) {
  auto registry = test::tiny_registry(test::tiny_model(), precision);
  test::add_moments(*registry, at::kFloat);
  test::fill_registry(*registry, 0);
  return registry;
}

Json state_of(int64_t step) { return {{"step", step}, {"seed", 18446744073709551615ULL}, {"lr", 0.1}}; }

void save(CheckpointStore& store, weights::ParameterRegistry& registry, int64_t step) {
  test::fill_registry(registry, static_cast<uint64_t>(step));
  store.save(step, registry, state_of(step));
  store.finish();
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& item : fs::directory_iterator(folder))
    if (item.path().filename() != ".lock") names.push_back(item.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// Loads the newest checkpoint and says whether it holds what fill_registry(step) makes.
testing::AssertionResult holds_its_step(const fs::path& output_dir, int64_t step) {
  const auto found = find_latest_good(output_dir);
  if (!found) return testing::AssertionFailure() << "no checkpoint";
  if (found->step != step) return testing::AssertionFailure() << "step " << found->step;
  const auto registry = make_registry();
  test::poison_registry(*registry);
  const LoadedCheckpoint loaded = load_checkpoint(found->directory, *registry);
  if (loaded.state != state_of(step)) return testing::AssertionFailure() << loaded.state.dump();
  if (!loaded.has_masters || !loaded.has_moments) return testing::AssertionFailure() << "state is missing";
  const auto expected = make_registry();
  test::fill_registry(*expected, static_cast<uint64_t>(step));
  if (test::bits_of(*registry) != test::bits_of(*expected))
    return testing::AssertionFailure() << "other bits";
  return testing::AssertionSuccess();
}

void flip_byte(const fs::path& path, int64_t from_end) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(-from_end, std::ios::end);
  const auto at = file.tellg();
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(at);
  file.put(byte);
}

TEST(Checkpoint, what_lies_on_disk) {
  const ScratchDirectory out, tokenizer;
  write_text_file(tokenizer / "tokenizer.json", "{}");
  CheckpointStore store(out.path(), {}, tokenizer.path());
  EXPECT_FALSE(store.find_latest_good());
  const auto registry = make_registry();
  save(store, *registry, 1000);
  EXPECT_EQ(names_in(out / "checkpoints"), (std::vector<std::string>{"latest", "step_00001000"}));
  EXPECT_EQ(read_text_file(out / "checkpoints/latest"), "step_00001000\n");
  EXPECT_EQ(names_in(out / "checkpoints/step_00001000"),
            (std::vector<std::string>{"config.json", "generation_config.json", "manifest.json",
                                      "model.safetensors", "tokenizer.json", "train_state"}));
  EXPECT_EQ(names_in(out / "checkpoints/step_00001000/train_state"),
            (std::vector<std::string>{"rank_00000_00001.safetensors", "state.json"}));
  EXPECT_TRUE(holds_its_step(out.path(), 1000));
  const checkpoint::Inspection inspection = checkpoint::inspect(out.path());
  EXPECT_TRUE(inspection.has_manifest);
  EXPECT_EQ(inspection.manifest_fault, "");
  EXPECT_EQ(inspection.manifest_files, 6U);
}

// The thread writes what was there at save(), while training changes the parameters.
TEST(Checkpoint, background_save_is_of_its_moment_whatever_part_was_copied) {
  const auto registry = make_registry();
  const auto bytes = static_cast<int64_t>(checkpoint_bytes(*registry, true));
  for (const int64_t snapshot : {int64_t{0}, int64_t{1}, bytes / 3, bytes - 1, bytes, int64_t{-1}}) {
    const ScratchDirectory out;
    CheckpointSection section;
    section.snapshot_bytes = snapshot;
    CheckpointStore store(out.path(), section);
    for (int64_t step = 1; step <= 3; ++step) {
      test::fill_registry(*registry, static_cast<uint64_t>(step));
      store.save(step, *registry, state_of(step));
      test::poison_registry(*registry);
      store.poll();
    }
    store.finish();
    EXPECT_TRUE(holds_its_step(out.path(), 3)) << snapshot;
  }
}

TEST(Checkpoint, damaged_ones_are_passed_over_with_a_warning) {
  const struct {
    const char* name;
    std::function<void(const fs::path&)> damage;
    const char* message;
  } cases[] = {
      {"truncated", [](const fs::path& d) { fs::resize_file(d / "model.safetensors", 5000); },
       "model.safetensors: it has 5000 bytes"},
      {"flipped", [](const fs::path& d) { flip_byte(d / "train_state/rank_00000_00001.safetensors", 77); },
       "rank_00000_00001.safetensors: its checksum is"},
      {"missing", [](const fs::path& d) { fs::remove(d / "train_state/state.json"); },
       "train_state/state.json: the file is missing"},
      {"no manifest", [](const fs::path& d) { fs::remove(d / "manifest.json"); }, "it has no manifest.json"},
      {"half a manifest", [](const fs::path& d) { fs::resize_file(d / "manifest.json", 200); },
       "manifest.json"},
      {"a list for a manifest", [](const fs::path& d) { write_text_file(d / "manifest.json", "[1]"); },
       "manifest.json: it is damaged"},
  };
  for (const auto& c : cases) {
    const ScratchDirectory out;
    CheckpointStore store(out.path(), {});
    const auto registry = make_registry();
    save(store, *registry, 1);
    save(store, *registry, 2);
    c.damage(out / "checkpoints/step_00000002");
    testing::internal::CaptureStderr();
    EXPECT_TRUE(holds_its_step(out.path(), 1)) << c.name;
    EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr(c.message)) << c.name;
    // Never from zero when none is good.
    fs::resize_file(out / "checkpoints/step_00000001/config.json", 3);
    EXPECT_THAT([&] { find_latest_good(out.path()); },
                ThrowsMessage<CheckpointError>(testing::AllOf(
                    HasSubstr(c.message), HasSubstr("config.json: it has 3"), HasSubstr("To start afresh"))));
  }
}

TEST(Checkpoint, the_newest_k_are_kept) {
  const ScratchDirectory out;
  CheckpointSection section;
  section.keep = 2;
  CheckpointStore store(out.path(), section);
  const auto registry = make_registry();
  for (const int64_t step : {1, 2, 3, 4}) save(store, *registry, step);
  EXPECT_EQ(names_in(out / "checkpoints"),
            (std::vector<std::string>{"latest", "step_00000003", "step_00000004"}));
  // A broken one does not count: the good step 3 stays although 4 and 5 are newer.
  fs::remove(out / "checkpoints/step_00000004/model.safetensors");
  save(store, *registry, 5);
  EXPECT_EQ(names_in(out / "checkpoints"),
            (std::vector<std::string>{"latest", "step_00000003", "step_00000004", "step_00000005"}));
  save(store, *registry, 6);
  EXPECT_EQ(names_in(out / "checkpoints"),
            (std::vector<std::string>{"latest", "step_00000005", "step_00000006"}));
  EXPECT_TRUE(holds_its_step(out.path(), 6));
}

TEST(Checkpoint, a_step_saved_again_replaces_the_one_there) {
  const ScratchDirectory out;
  CheckpointStore store(out.path(), {});
  const auto registry = make_registry();
  save(store, *registry, 7);
  write_text_file(out / "checkpoints/step_00000007/stray", "x");
  save(store, *registry, 7);
  EXPECT_FALSE(fs::exists(out / "checkpoints/step_00000007/stray"));
  EXPECT_EQ(names_in(out / "checkpoints"), (std::vector<std::string>{"latest", "step_00000007"}));
  EXPECT_TRUE(holds_its_step(out.path(), 7));
}

TEST(Checkpoint, optimizer_last_and_none) {
  const auto registry = make_registry();
  for (const char* kind : {"last", "none"}) {
    const ScratchDirectory out;
    CheckpointSection section;
    section.optimizer = kind;
    CheckpointStore store(out.path(), section);
    save(store, *registry, 1);
    save(store, *registry, 2);
    const bool last = section.optimizer == "last";
    EXPECT_EQ(find_latest_good(out.path())->has_optimizer, last);
    if (last) {
      EXPECT_TRUE(holds_its_step(out.path(), 2));
    }
    fs::remove_all(out / "checkpoints/step_00000002");
    const auto older = find_latest_good(out.path());
    ASSERT_TRUE(older && older->step == 1);
    EXPECT_FALSE(older->has_optimizer);
    EXPECT_EQ(names_in(older->directory / "train_state"), (std::vector<std::string>{"state.json"}));
    const LoadedCheckpoint loaded = load_checkpoint(older->directory, *registry);
    EXPECT_FALSE(loaded.has_moments);
    EXPECT_EQ(loaded.state, state_of(1));
  }
}

// A write beyond the limit fails as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_;
};

TEST(Checkpoint, failed_writes_are_said_and_leave_the_last_good_one) {
  const auto registry = make_registry();
  for (const int64_t snapshot : {int64_t{0}, int64_t{20'000}, int64_t{-1}}) {
    const ScratchDirectory out;
    CheckpointSection section;
    section.snapshot_bytes = snapshot;
    section.keep = 1;
    CheckpointStore store(out.path(), section);
    save(store, *registry, 1);
    {
      const FileSizeLimit limit(30'000);
      testing::internal::CaptureStderr();
      test::fill_registry(*registry, 2);
      store.save(2, *registry, state_of(2));
      EXPECT_THAT([&] { store.finish(); }, ThrowsMessage<CheckpointError>(HasSubstr("File too large")));
      EXPECT_THAT(testing::internal::GetCapturedStderr(),
                  HasSubstr("checkpoint of step 2 could not be saved"));
    }
    EXPECT_EQ(names_in(out / "checkpoints"), (std::vector<std::string>{"latest", "step_00000001"}));
    EXPECT_TRUE(holds_its_step(out.path(), 1));
    save(store, *registry, 3);  // and finish() no longer throws
    EXPECT_TRUE(holds_its_step(out.path(), 3));
  }
}

TEST(Checkpoint, too_little_disk_is_known_before_the_run) {
  const ScratchDirectory out;
  CheckpointSection section;
  section.keep = 0;
  const auto registry = make_registry();
  CheckpointStore store(out.path(), section);
  EXPECT_NO_THROW(store.check_disk(*registry, 2));
  EXPECT_THAT(
      [&] { store.check_disk(*registry, int64_t{1} << 40); },
      ThrowsMessage<FileError>(testing::AllOf(HasSubstr("1099511627776 checkpoints"), HasSubstr("is free"))));
}

TEST(Checkpoint, a_place_that_cannot_be_written_is_an_error_at_the_start) {
  const ScratchDirectory out;
  write_text_file(out / "file", "in the way");
  EXPECT_THROW(CheckpointStore(out / "file", {}), FileError);
  EXPECT_THROW(CheckpointStore("/proc/no-run-writes-here", {}), FileError);
}

TEST(Checkpoint, two_runs_do_not_write_into_one_directory) {
  const ScratchDirectory out;
  {
    const CheckpointStore first(out.path(), {});
    EXPECT_THAT([&] { CheckpointStore(out.path(), {}); },
                ThrowsMessage<FileError>(HasSubstr(fmt::format("process {} on ", ::getpid()))));
  }
  EXPECT_FALSE(fs::exists(out / "checkpoints/.lock"));
  EXPECT_NO_THROW(CheckpointStore(out.path(), {}));
}

TEST(Checkpoint, leftovers_of_killed_runs_go_at_the_start) {
  const ScratchDirectory out;
  const auto registry = make_registry();
  {
    CheckpointStore store(out.path(), {});
    save(store, *registry, 1);
  }
  make_directories(out / "checkpoints/step_00000002.tmp-123/train_state");
  write_text_file(out / "checkpoints/step_00000002.tmp-123/model.safetensors", "half");
  write_text_file(out / "checkpoints/latest.tmp-9", "x");
  write_text_file(out / "checkpoints/step_00000001/manifest.json.tmp-9", "x");
  EXPECT_TRUE(holds_its_step(out.path(), 1));
  const CheckpointStore store(out.path(), {});
  EXPECT_EQ(names_in(out / "checkpoints"), (std::vector<std::string>{"latest", "step_00000001"}));
  EXPECT_FALSE(fs::exists(out / "checkpoints/step_00000001/manifest.json.tmp-9"));
}

constexpr const char* kSaverDirectory = "FATHOM_TEST_SAVER_DIRECTORY";

// Until it is killed: resumes, then saves step after step.
void run_saver(const fs::path& out) {
  const auto registry = make_registry();
  CheckpointSection section;
  section.keep = 2;
  // Copied in part, so that both the caller and the thread write.
  section.snapshot_bytes = static_cast<int64_t>(checkpoint_bytes(*registry, true) / 2);
  CheckpointStore store(out, section);
  const auto found = store.find_latest_good();
  std::fputs("ready\n", stdout);
  std::fflush(stdout);
  for (int64_t step = found ? found->step + 1 : 1;; ++step) {
    test::fill_registry(*registry, static_cast<uint64_t>(step));
    store.save(step, *registry, state_of(step));
    std::fputs("saving\n", stdout);
    std::fflush(stdout);
  }
}

// Starts the saver, and kills it a random while after it has begun its save number `saves`.
void run_saver_and_kill(const fs::path& out, int saves, uint64_t round) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::setenv(kSaverDirectory, out.c_str(), 1);
    ::dup2(ends[1], STDOUT_FILENO);
    ::close(ends[0]);
    const std::string filter =
        std::string("--gtest_filter=*.") + testing::UnitTest::GetInstance()->current_test_info()->name();
    ::execl("/proc/self/exe", "saver", filter.c_str(), nullptr);
    ::_exit(127);
  }
  ASSERT_GT(child, 0);
  ::close(ends[1]);
  const auto count_of = [](const std::string& text) {
    int count = 0;
    for (size_t at = 0; (at = text.find("saving\n", at)) != std::string::npos; ++at) ++count;
    return count;
  };
  std::string text;
  char buffer[256];
  while (text.find("ready\n") == std::string::npos || count_of(text) < saves) {
    const ssize_t count = ::read(ends[0], buffer, sizeof buffer);
    if (count <= 0) break;
    text.append(buffer, static_cast<size_t>(count));
  }
  EXPECT_GE(count_of(text), saves) << text;
  ::usleep(static_cast<useconds_t>(60'000 * uniform(1, round)));  // the moment; any outcome must hold
  ::kill(child, SIGKILL);
  int status;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  ::close(ends[0]);
}

TEST(Checkpoint, a_run_killed_at_any_moment_leaves_a_good_newest_checkpoint) {
  if (const char* saver = std::getenv(kSaverDirectory)) run_saver(saver);  // this test's own child
  const ScratchDirectory out;
  int64_t newest = 0;
  for (uint64_t round = 0; round < 30; ++round) {
    ASSERT_NO_FATAL_FAILURE(run_saver_and_kill(out.path(), static_cast<int>(round % 4), round));
    for (const std::string& name : names_in(out / "checkpoints"))
      if (name.starts_with("step_") && name.size() == 13) {
        EXPECT_FALSE(formats::find_fault(out / "checkpoints" / name, formats::Verify::checksums)) << name;
      }
    const auto found = find_latest_good(out.path());
    if (!found) {
      ASSERT_EQ(newest, 0) << "a checkpoint was lost";
      continue;
    }
    ASSERT_GE(found->step, newest);
    newest = found->step;
    ASSERT_TRUE(holds_its_step(out.path(), newest));
  }
  EXPECT_GE(newest, 10);
}

}  // namespace
}  // namespace fathom::train

// Checkpoints of several ranks: here threads of one process, each with its store and its share of the state.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "base/error.h"
#include "base/file.h"
#include "formats/checkpoint_manifest.h"
#include "parallel/c10d_pointer.h"
#include "support/scratch.h"
#include "support/tiny_registry.h"
#include "train/checkpoint.h"
#include "train/shared_disk.h"

namespace fathom::train {
namespace {

using config::CheckpointSection;
using config::Precision;
using test::ScratchDirectory;
using testing::HasSubstr;
using testing::Not;

std::shared_ptr<c10d::Store> new_store() {
  return parallel::as_shared<c10d::Store>(c10::make_intrusive<c10d::HashStore>());
}

std::unique_ptr<weights::ParameterRegistry> registry_of(int64_t rank, int64_t ranks, int64_t step,
                                                        int64_t zero) {
  const weights::Replica replica{rank, ranks};
  auto registry =
      test::tiny_registry(test::tiny_model(), Precision::bf16, {replica, replica, zero >= 1, zero >= 2});
  test::add_moments(*registry, at::kFloat);
  test::fill_registry(*registry, static_cast<uint64_t>(step));
  return registry;
}

// Runs `body(rank, board)` for every rank, each in a thread. Returns the messages of what they threw, by rank.
std::vector<std::string> on_ranks(int64_t ranks,
                                  const std::function<void(int64_t, parallel::NoticeBoard&)>& body,
                                  double patience = 60) {
  const auto store = ranks > 1 ? new_store() : nullptr;
  std::vector<std::string> thrown(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      parallel::NoticeBoard board(store, rank, ranks, patience);
      try {
        body(rank, board);
      } catch (const std::exception& error) {
        thrown[static_cast<size_t>(rank)] = error.what();
      }
    });
  for (std::thread& thread : threads) thread.join();
  return thrown;
}

void save(const fs::path& out, int64_t ranks, int64_t zero, const CheckpointSection& section, int64_t step) {
  const std::vector<std::string> thrown = on_ranks(ranks, [&](int64_t rank, parallel::NoticeBoard& board) {
    const auto registry = registry_of(rank, ranks, step, zero);
    CheckpointStore store(out, section, {}, &board);
    store.check_disk(*registry, 2);
    store.save(step, *registry, {{"step", step}});
    test::poison_registry(*registry);
    store.finish();
  });
  EXPECT_THAT(thrown, testing::Each(""));
}

void expect_step(const fs::path& out, int64_t ranks, int64_t zero, int64_t step) {
  const std::vector<std::string> thrown = on_ranks(ranks, [&](int64_t rank, parallel::NoticeBoard& board) {
    CheckpointStore store(out, {}, {}, &board);
    const auto found = store.find_latest_good();
    ASSERT_TRUE(found && found->has_optimizer);
    EXPECT_EQ(found->step, step);
    const auto expected = registry_of(rank, ranks, step, zero),
               loaded = registry_of(rank, ranks, step + 1, zero);
    const LoadedCheckpoint checkpoint = load_checkpoint(found->directory, *loaded);
    EXPECT_TRUE(checkpoint.has_masters && checkpoint.has_moments);
    EXPECT_TRUE(test::bits_of(*loaded) == test::bits_of(*expected)) << "rank " << rank;
  });
  EXPECT_THAT(thrown, testing::Each(""));
}

TEST(CheckpointRanks, CK_3_saved_by_any_number_loaded_by_any_other) {
  for (const auto& [ranks, zero] : std::vector<std::pair<int64_t, int64_t>>{{1, 0}, {2, 1}, {4, 2}, {3, 0}}) {
    const ScratchDirectory out;
    CheckpointSection section;
    section.snapshot_bytes = 20'000;  // in part by the caller, in part by the thread
    save(out.path(), ranks, zero, section, 3);
    const formats::CheckpointManifest manifest = formats::read_manifest(out / "checkpoints/step_00000003");
    for (int64_t rank = 0; rank < ranks; ++rank)
      EXPECT_TRUE(manifest.files.contains(fmt::format("train_state/rank_{:05}_00001.safetensors", rank)));
    EXPECT_FALSE(formats::find_fault(out / "checkpoints/step_00000003", formats::Verify::checksums));
    for (const auto& [others, their_zero] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 0}, {2, 2}, {3, 1}, {2, 0}})
      expect_step(out.path(), others, their_zero, 3);
  }
}

TEST(CheckpointRanks, a_torn_part_of_any_rank_is_passed_over) {
  const ScratchDirectory out;
  save(out.path(), 3, 1, {}, 1);
  save(out.path(), 3, 1, {}, 2);
  fs::resize_file(out / "checkpoints/step_00000002/train_state/rank_00002_00001.safetensors", 700);
  testing::internal::CaptureStderr();
  expect_step(out.path(), 2, 1, 1);
  EXPECT_THAT(
      testing::internal::GetCapturedStderr(),
      testing::AllOf(HasSubstr("warning"), HasSubstr("rank_00002_00001.safetensors: it has 700 bytes")));
}

// A directory in the way of one rank's file: its writing fails as on a disk that takes no more.
TEST(CheckpointRanks, what_one_rank_cannot_write_all_learn_and_nothing_is_left) {
  for (const int64_t failing : {0, 1, 2}) {
    const ScratchDirectory out;
    save(out.path(), 3, 1, {}, 1);
    testing::internal::CaptureStderr();
    const std::vector<std::string> thrown = on_ranks(3, [&](int64_t rank, parallel::NoticeBoard& board) {
      const auto registry = registry_of(rank, 3, 2, 1);
      CheckpointStore store(out.path(), {}, {}, &board);
      if (rank == 0)
        make_directories(out / fmt::format("checkpoints/step_00000002.tmp-{}/train_state/rank_{:05}_00001."
                                           "safetensors/in the way",
                                           ::getpid(), failing));
      board.meet("the fault");
      store.save(2, *registry, {{"step", 2}});
      store.wait();
      board.meet("the other save");  // nobody hangs, and the next save succeeds or fails by itself
      store.finish();
    });
    const std::string shown = testing::internal::GetCapturedStderr();
    for (const std::string& message : thrown)
      EXPECT_THAT(message, testing::AllOf(HasSubstr("the last checkpoint could not be saved"),
                                          HasSubstr(fmt::format("rank {} on ", failing)),
                                          HasSubstr(fmt::format("rank_{:05}_00001.safetensors", failing))));
    const size_t first = shown.find("error: ");
    ASSERT_NE(first, std::string::npos) << shown;
    EXPECT_EQ(shown.find("error: ", first + 1), std::string::npos) << shown;
    EXPECT_FALSE(fs::exists(out / "checkpoints/step_00000002"));
    for (const auto& item : fs::directory_iterator(out / "checkpoints"))
      EXPECT_THAT(item.path().filename().string(), Not(HasSubstr(".tmp-")));
    expect_step(out.path(), 2, 1, 1);
    save(out.path(), 3, 1, {}, 3);
    expect_step(out.path(), 1, 0, 3);
  }
}

TEST(CheckpointRanks, disks_that_are_not_shared_are_said_on_every_rank) {
  const ScratchDirectory a, b;
  EXPECT_THAT(on_ranks(3, [&](int64_t, parallel::NoticeBoard& board) { check_shared_disk(a.path(), board); }),
              testing::Each(""));
  EXPECT_TRUE(fs::is_empty(a.path()));
  EXPECT_THAT(on_ranks(3,
                       [&](int64_t rank, parallel::NoticeBoard& board) {
                         check_shared_disk(rank == 2 ? b.path() : a.path(), board);
                       }),
              testing::Each(testing::AllOf(HasSubstr("rank 2 on "), HasSubstr("are not shared"))));
}

TEST(NoticeBoard, a_note_is_waited_for_as_long_as_its_rank_lives) {
  const auto store = new_store();
  parallel::NoticeBoard board(store, 0, 2, 4);
  std::thread slow([&] {
    parallel::NoticeBoard other(store, 1, 2, 4);
    EXPECT_EQ(other.read("go", 0), "now");
    other.post("answer", "yes");
    board.read("stop", 0);
  });
  EXPECT_FALSE(board.look("answer"));
  board.post("go", "now");
  EXPECT_EQ(board.read("answer", 1), "yes");
  board.post("stop", "");
  slow.join();
  // It counts no longer: whoever waits for it ends, and names it.
  EXPECT_THAT([&] { board.read("more", 1); }, testing::ThrowsMessage<DistributedError>(
                                                  testing::AllOf(HasSubstr("rank 1"), HasSubstr("no life"))));
  EXPECT_THAT([&] { board.meet("the end"); }, testing::ThrowsMessage<DistributedError>(
                                                  testing::AllOf(HasSubstr("the end"), HasSubstr("rank 1"))));
}

TEST(NoticeBoard, one_rank_reads_its_own) {
  parallel::NoticeBoard board;
  board.post("a", "text");
  board.meet("nobody else");
  EXPECT_EQ(board.read("a", 0), "text");
  board.erase("a");
  EXPECT_FALSE(board.look("a"));
}

}  // namespace
}  // namespace fathom::train

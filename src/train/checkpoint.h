// The checkpoints of a run: OUT/checkpoints/step_00001000/ (an HF checkpoint plus train_state/ and
// manifest.json). A directory is written under a temporary name, every file synced, the manifest last, then
// renamed: whatever moment a run is killed at, each step_* directory is whole, and the newest of them is
// where it goes on.
//
// Several ranks write into the same temporary directory: each its part of the HF files (whole files) and its share of
// the state. Each tells rank 0 the checksums of its files, or what went wrong; rank 0 writes the manifest and puts the
// directory in place once all parts are synced, or gives the save up; then all know.
//
// Use by the trainer:
//   CheckpointStore store(recipe.output_dir, recipe.checkpoint, tokenizer);
//   store.check_disk(registry, planned_saves);
//   if (auto found = store.find_latest_good()) { auto resumed = load_checkpoint(found->directory, registry);
//   ... } loop: store.poll(); if (due) store.save(step, registry, state); end:  store.finish();
// Every rank makes the same calls.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/directory_lock.h"
#include "base/json.h"
#include "checkpoint/run_directory.h"
#include "config/recipe.h"
#include "parallel/communicator.h"
#include "parallel/notice_board.h"
#include "weights/parameter_registry.h"

namespace fathom::train {

using checkpoint::kCheckpointFolder;
inline constexpr const char* kStateName = "train_state/state.json";

std::string checkpoint_name(int64_t step);  // "step_00001000"

struct FoundCheckpoint {
  std::filesystem::path directory;
  int64_t step = 0;
  bool has_optimizer = false;  // train_state/ holds tensors
};

// The newest checkpoint of a run whose manifest, sizes and checksums hold; each newer one that does not is a
// warning that says what is wrong with it. Nothing when there is no checkpoint at all. Throws CheckpointError
// when there are some but none is good: a run never starts again from zero by itself. Reads every byte of
// what it returns.
std::optional<FoundCheckpoint> find_latest_good(const std::filesystem::path& output_dir);

struct LoadedCheckpoint {
  Json state;                // what save() was given
  bool has_masters = false;  // as weights::LoadedState
  bool has_moments = false;
};
// Weights, masters and defined moments into the registry (weights/train_state.h), and the trainer's state.
LoadedCheckpoint load_checkpoint(const std::filesystem::path& directory,
                                 weights::ParameterRegistry& registry);

// Bytes of the tensors of one checkpoint, of the state as far as this rank writes it. Moments count once the optimizer
// has made them.
uint64_t checkpoint_bytes(weights::ParameterRegistry& registry, bool with_optimizer);

class CheckpointStore {
 public:
  // Makes OUT/checkpoints and removes what killed runs left there. Throws FileError where it cannot be
  // written, or while another process writes checkpoints there (rank 0 looks). `tokenizer`: whose files each
  // checkpoint gets (a directory or a tokenizer.json; empty: none). `board`: of the ranks that save together; null: one. `tensor_ranks`: that share matrices, which save() brings
  // together.
  CheckpointStore(const std::filesystem::path& output_dir, const config::CheckpointSection& section,
                  const std::filesystem::path& tokenizer = {}, parallel::NoticeBoard* board = nullptr,
                  parallel::Communicator* tensor_ranks = nullptr);
  CheckpointStore(const CheckpointStore&) = delete;
  CheckpointStore& operator=(const CheckpointStore&) = delete;
  ~CheckpointStore();  // waits for the save in flight; logs its error

  // Room for what the run will hold at once: min(planned_saves, keep + 1) checkpoints, less those there
  // already. Throws FileError with the numbers. Call it once the optimizer has made its moments.
  void check_disk(weights::ParameterRegistry& registry, int64_t planned_saves);

  // As above; rank 0 reads and tells the others, however long it takes.
  std::optional<FoundCheckpoint> find_latest_good();

  // Waits for the save before, copies up to snapshot_bytes of the state, writes the rest, and returns; the
  // copied part is written, synced and put in place by a thread while training goes on. `state` goes to
  // train_state/state.json (all of `optimizer: all | last | none` keep that). A failed save is logged as an
  // error, leaves the last good checkpoint as it was, and is remembered until one succeeds; it never throws
  // for a full disk or a failed write, of whatever rank (its number and host are said).
  // `training_goes_on` false (the last save of a run): nothing is copied, everything is written at once.
  void save(int64_t step, weights::ParameterRegistry& registry, const Json& state,
            bool training_goes_on = true);
  void poll();    // every step: logs the error of a save that ended badly; cheap
  void wait();    // until no save is in flight
  void finish();  // waits; throws CheckpointError if the newest save failed: its work would be lost silently

  bool is_saving() const { return busy_.load(); }
  const std::filesystem::path& directory() const { return directory_; }  // OUT/checkpoints

 private:
  struct Job;
  void prepare(Job& job, weights::ParameterRegistry& registry, const Json& state);
  void plan_weight_files(Job& job, weights::ParameterRegistry& registry);
  void write_cut_tensors(Job& job);
  void write_part(Job& job);       // the rest of this rank's files
  void complete(Job& job);         // from the last tensor to the rename; in the thread or the caller
  std::string conclude(Job& job);  // rank 0: what went wrong, "" if the checkpoint stands
  void put_in_place(Job& job);
  void settle();  // joins the thread and takes its verdict
  void remove_old(int64_t newest) const;

  std::filesystem::path output_dir_, directory_, tokenizer_;
  config::CheckpointSection section_;
  uint64_t snapshot_bytes_ = 0, other_ranks_bytes_ = 0;  // the latter: of their state, as rank 0 knows it
  std::unique_ptr<parallel::NoticeBoard> own_board_;
  parallel::NoticeBoard& board_;
  parallel::Communicator* tensor_ranks_;
  std::optional<std::pair<int64_t, int64_t>>
      numbering_;      // of a spread model's files: before this rank's, in all
  std::string mark_;   // in the name of a directory on its way, the same on all ranks
  int64_t saves_ = 0;  // begun
  DirectoryLock lock_;
  std::unique_ptr<Job> job_;
  std::thread thread_;
  std::atomic<bool> busy_{false};
  std::string failure_;  // of the newest save; empty: it succeeded
};

}  // namespace fathom::train

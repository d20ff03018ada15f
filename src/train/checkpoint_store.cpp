// CheckpointStore: one save at a time, its last part by a thread.
#include <unistd.h>

#include <algorithm>
#include <new>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "checkpoint/model_files.h"
#include "formats/checkpoint_manifest.h"
#include "ops/allocator.h"
#include "train/checkpoint.h"
#include "train/checkpoint_files.h"
#include "weights/save_weights.h"
#include "weights/train_state.h"

namespace fathom::train {
namespace {

// Beside the tensors: headers, config, tokenizer, state.json, manifest.
constexpr uint64_t kSmallFilesBytes = 16 << 20;

}  // namespace

// A save on its way: the files, those that are begun, and the copied tensors that wait to be written.
struct CheckpointStore::Job {
  bool may_copy = true;  // into memory, to be written while training goes on
  struct Copy {
    const checkpoint::SavedTensor* tensor;
    std::unique_ptr<std::byte[]> bytes;
  };
  struct File {
    const checkpoint::SavedFile* plan;
    std::unique_ptr<formats::SafetensorsWriter> writer;  // null: not begun, or already in place
    std::vector<Copy> copies;
    bool is_written = false;
  };
  int64_t step = 0;
  fs::path temporary, final_path, tokenizer;
  config::ModelConfig model;
  formats::Dtype dtype = formats::Dtype::F32;
  std::string state;
  std::vector<checkpoint::SavedFile> weight_files, state_files;
  std::vector<File> files;
  formats::CheckpointManifest manifest;
  std::string failure;  // written by the thread, read after joining it

  ~Job() {
    files.clear();  // open files first
    std::error_code ignored;
    if (!temporary.empty()) fs::remove_all(temporary, ignored);  // gone already after a good save
  }
};

CheckpointStore::CheckpointStore(const fs::path& output_dir, const config::CheckpointSection& section,
                                 const fs::path& tokenizer)
    : output_dir_(output_dir),
      directory_(output_dir / kCheckpointFolder),
      tokenizer_(tokenizer),
      section_(section),
      snapshot_bytes_(section.snapshot_bytes < 0 ? total_memory_bytes() / 10
                                                 : static_cast<uint64_t>(section.snapshot_bytes)) {
  if (!tokenizer_.empty()) checkpoint::check_tokenizer(tokenizer_);
  make_directories(directory_);
  lock_ = DirectoryLock(directory_,
                        "writes checkpoints here; wait for it to end or give this run another output_dir");
  remove_leftovers(directory_);
}

CheckpointStore::~CheckpointStore() {
  try {
    settle();
  } catch (const std::exception& e) {
    log::error("{}", e.what());
  }
}

void CheckpointStore::check_disk(weights::ParameterRegistry& registry, int64_t planned_saves) const {
  if (planned_saves <= 0) return;
  const uint64_t light = checkpoint_bytes(registry, false) + kSmallFilesBytes;
  const uint64_t full = checkpoint_bytes(registry, true) + kSmallFilesBytes;
  // One more than is kept: the old one goes when the new one is whole.
  const int64_t held = section_.keep > 0 ? std::min(planned_saves, section_.keep + 1) : planned_saves;
  const int64_t held_full = section_.optimizer == "all"    ? held
                            : section_.optimizer == "last" ? std::min<int64_t>(held, 2)
                                                           : 0;
  const uint64_t needed =
      full * static_cast<uint64_t>(held_full) + light * static_cast<uint64_t>(held - held_full);
  uint64_t there = 0;
  if (section_.keep > 0)
    for (const auto& [step, path] : list_checkpoints(directory_))
      for (const auto& item : fs::recursive_directory_iterator(path))
        if (item.is_regular_file()) there += item.file_size();
  const uint64_t available = free_disk_bytes(directory_) + there;
  if (available >= needed) return;
  throw FileError(
      "{}: too little disk: the run will hold {} checkpoints of {} ({} in all), {} is free; free some, or "
      "lower "
      "checkpoint.keep (now {}), or set checkpoint.optimizer to last or none",
      directory_.string(), held, format_bytes(static_cast<double>(held_full > 0 ? full : light)),
      format_bytes(static_cast<double>(needed)), format_bytes(static_cast<double>(available)), section_.keep);
}

void CheckpointStore::save(int64_t step, weights::ParameterRegistry& registry, const Json& state,
                           bool training_goes_on) {
  settle();
  ops::trim_allocator_cache();  // its room serves the snapshot
  job_ = std::make_unique<Job>();
  job_->may_copy = training_goes_on;
  job_->step = step;
  bool in_background = false;
  try {
    prepare(*job_, registry, state);
    for (const Job::File& file : job_->files) in_background |= !file.copies.empty();
    if (!in_background) complete(*job_);
  } catch (const Error& e) {
    job_->failure = e.what();
    in_background = false;
  }
  if (!in_background) return settle();
  busy_ = true;
  thread_ = std::thread([this, job = job_.get()] {
    try {
      complete(*job);
    } catch (const std::exception& e) {
      job->failure = e.what();
    }
    busy_ = false;
  });
}

// Everything that reads live parameters: tensors from the end, up to snapshot_bytes, are copied, those before
// them written.
void CheckpointStore::prepare(Job& job, weights::ParameterRegistry& registry, const Json& state) {
  job.model = registry.model();
  job.dtype = weights::saved_dtype(registry.precision());
  job.tokenizer = tokenizer_;
  job.state = state.dump(2) + "\n";
  job.weight_files =
      checkpoint::cut_into_files(weights::weight_tensors(registry), checkpoint::kDefaultShardBytes);
  if (section_.optimizer != "none") job.state_files = weights::plan_train_state(registry);
  uint64_t bytes = kSmallFilesBytes;
  for (auto* files : {&job.state_files, &job.weight_files}) {
    for (const checkpoint::SavedFile& file : *files) {
      job.files.push_back({&file, nullptr, {}, false});
      bytes += file.bytes();
    }
  }
  const uint64_t available = free_disk_bytes(directory_);
  if (available < bytes)
    throw FileError("{}: too little disk for the checkpoint of step {}: it needs {}, {} is free",
                    directory_.string(), job.step, format_bytes(static_cast<double>(bytes)),
                    format_bytes(static_cast<double>(available)));
  job.final_path = directory_ / checkpoint_name(job.step);
  job.temporary = fmt::format("{}{}{}", job.final_path.string(), kTemporaryMark, ::getpid());
  make_directories(job.temporary / weights::kTrainStateFolder);

  uint64_t room = job.may_copy ? snapshot_bytes_ : 0;
  bool has_room = true;
  for (auto file = job.files.rbegin(); file != job.files.rend() && has_room; ++file) {
    for (auto tensor = file->plan->tensors.rbegin(); tensor != file->plan->tensors.rend(); ++tensor) {
      has_room = tensor->bytes() <= room;
      if (!has_room) break;
      Job::Copy copy{&*tensor, nullptr};
      try {
        copy.bytes = std::make_unique_for_overwrite<std::byte[]>(tensor->bytes());
      } catch (const std::bad_alloc&) {
        has_room = false;
        break;
      }
      if (tensor->numel() > 0) tensor->read(0, tensor->numel(), copy.bytes.get());
      room -= tensor->bytes();
      file->copies.push_back(std::move(copy));
    }
  }

  std::vector<std::byte> buffer;
  for (Job::File& file : job.files) {
    const std::vector<checkpoint::SavedTensor>& tensors = file.plan->tensors;
    const size_t live = tensors.size() - file.copies.size();
    if (live == 0) break;  // the copied ones are the end of the list
    file.writer = std::make_unique<formats::SafetensorsWriter>(
        job.temporary / file.plan->name, checkpoint::declarations(tensors), file.plan->metadata);
    for (size_t i = 0; i < live; ++i)
      checkpoint::for_each_chunk(tensors[i], buffer, [&](uint64_t offset, std::span<const std::byte> part) {
        file.writer->write_slice(tensors[i].declaration.name, offset, part);
      });
    if (!file.copies.empty()) continue;
    file.writer->commit();
    file.writer.reset();
    file.is_written = true;
  }
}

void CheckpointStore::complete(Job& job) {
  const auto record = [&](const std::string& name) {
    job.manifest.files[name] = formats::checksum_file(job.temporary / name);
  };
  for (Job::File& file : job.files) {
    if (!file.is_written) {
      if (!file.writer)
        file.writer = std::make_unique<formats::SafetensorsWriter>(
            job.temporary / file.plan->name, checkpoint::declarations(file.plan->tensors),
            file.plan->metadata);
      for (Job::Copy& copy : file.copies) {
        file.writer->write(copy.tensor->declaration.name, {copy.bytes.get(), copy.tensor->bytes()});
        copy.bytes.reset();
      }
      file.writer->commit();
      file.writer.reset();
    }
    record(file.plan->name);
  }
  if (!job.tokenizer.empty() && !fs::exists(job.tokenizer)) {
    log::warning("{} is gone: the checkpoint of step {} has no tokenizer", job.tokenizer.string(), job.step);
    job.tokenizer.clear();
  }
  for (const std::string& name :
       checkpoint::write_model_files(job.temporary, job.model, job.dtype, job.weight_files, job.tokenizer))
    record(name);
  write_text_file(job.temporary / kStateName, job.state);
  record(kStateName);
  sync_directory(job.temporary / weights::kTrainStateFolder);
  job.manifest.step = job.step;
  formats::write_manifest(job.temporary, job.manifest);
  sync_directory(job.temporary);
  put_in_place(job.temporary, job.final_path);
  sync_directory(directory_);
  // The checkpoint stands; what follows is housekeeping.
  try {
    write_text_file(directory_ / "latest", checkpoint_name(job.step) + "\n");
    sync_directory(directory_);
    remove_old(job.step);
  } catch (const std::exception& e) {
    log::warning("checkpoint {} is saved, but: {}", job.final_path.string(), e.what());
  }
}

// The newest `keep` whole checkpoints stay, and `newest` whatever its number; older ones go, whole or not.
void CheckpointStore::remove_old(int64_t newest) const {
  int64_t kept = 1;
  for (const auto& [step, path] : list_checkpoints(directory_)) {
    if (step == newest) continue;
    if (section_.keep > 0 && kept >= section_.keep && step < newest) {
      remove_checkpoint(path);
      continue;
    }
    if (find_checkpoint_fault(path, step, formats::Verify::sizes)) continue;
    ++kept;
    if (section_.optimizer == "last" && step < newest) drop_state_tensors(path);
  }
}

void CheckpointStore::settle() {
  if (thread_.joinable()) thread_.join();
  if (!job_) return;
  const std::unique_ptr<Job> job = std::move(job_);
  failure_ = job->failure;
  if (!failure_.empty())
    log::error("the checkpoint of step {} could not be saved: {}; earlier checkpoints are as they were",
               job->step, failure_);
}

void CheckpointStore::poll() {
  if (job_ && !busy_) settle();
}

void CheckpointStore::wait() { settle(); }

void CheckpointStore::finish() {
  settle();
  if (!failure_.empty())
    throw CheckpointError(
        "the last checkpoint could not be saved: {}; mend that and start again: the run goes on "
        "from the newest good one",
        failure_);
}

}  // namespace fathom::train

// CheckpointStore: one save at a time, its last part by a thread.
#include <ATen/ops/from_blob.h>
#include <unistd.h>

#include <algorithm>
#include <new>

#include "base/error.h"
#include "base/file.h"
#include "base/host_name.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "checkpoint/model_files.h"
#include "formats/checkpoint_manifest.h"
#include "ops/allocator.h"
#include "train/checkpoint.h"
#include "train/checkpoint_files.h"
#include "weights/save_weights.h"
#include "weights/spread_weights.h"
#include "weights/train_state.h"

namespace fathom::train {
namespace {

// Beside the tensors: headers, config, tokenizer, state.json, manifest.
constexpr uint64_t kSmallFilesBytes = 16 << 20;

std::string note(int64_t save, const std::string& what) {
  return fmt::format("checkpoint/{}/{}", save, what);
}
std::string part_note(int64_t save, int64_t rank) { return note(save, fmt::format("part/{}", rank)); }
std::string size_note(int64_t rank) { return fmt::format("checkpoint/bytes/{}", rank); }

}  // namespace

// A save on its way: the files, those that are begun, and the copied tensors that wait to be written.
struct CheckpointStore::Job {
  explicit Job(bool is_first_rank) : is_first(is_first_rank) {}
  const bool is_first;
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
  int64_t number = 0, step = 0;
  fs::path temporary, final_path, tokenizer;
  config::ModelConfig model;
  formats::Dtype dtype = formats::Dtype::F32;
  std::string state;
  std::vector<checkpoint::SavedFile> weight_files, state_files;
  // Of a spread model: weight_files are this rank's alone, and the last of them hold what tensor ranks bring together.
  bool is_spread = false;
  weights::SpreadWeights spread;
  std::vector<checkpoint::SavedFile> cut_files;
  std::vector<File> files;
  formats::CheckpointManifest manifest;  // of this rank's files; rank 0 adds the others'
  std::string part_failure;              // of this rank
  std::string failure;                   // of the save; written by the thread, read after joining it

  ~Job() {
    files.clear();  // open files first
    std::error_code ignored;
    // Gone already after a good save. Others write there, too: it goes when they have said that they are done.
    if (is_first && !temporary.empty()) fs::remove_all(temporary, ignored);
  }
};

CheckpointStore::CheckpointStore(const fs::path& output_dir, const config::CheckpointSection& section,
                                 const fs::path& tokenizer, parallel::NoticeBoard* board,
                                 parallel::Communicator* tensor_ranks)
    : output_dir_(output_dir),
      directory_(output_dir / kCheckpointFolder),
      tokenizer_(tokenizer),
      section_(section),
      snapshot_bytes_(section.snapshot_bytes < 0 ? total_memory_bytes() / 10
                                                 : static_cast<uint64_t>(section.snapshot_bytes)),
      own_board_(board ? nullptr : std::make_unique<parallel::NoticeBoard>()),
      board_(board ? *board : *own_board_),
      tensor_ranks_(tensor_ranks) {
  if (!board_.is_first()) {
    mark_ = board_.read(note(0, "mark"), 0);
    return;
  }
  if (!tokenizer_.empty()) checkpoint::check_tokenizer(tokenizer_);
  make_directories(directory_);
  lock_ = DirectoryLock(directory_,
                        "writes checkpoints here; wait for it to end or give this run another output_dir");
  remove_leftovers(directory_);
  mark_ = fmt::format("{}{}", kTemporaryMark, ::getpid());
  board_.post(note(0, "mark"), mark_);
}

std::optional<FoundCheckpoint> CheckpointStore::find_latest_good() {
  if (board_.is_first()) {
    const auto found = train::find_latest_good(output_dir_);
    board_.post(note(0, "found"), std::to_string(found ? found->step : -1));
    return found;
  }
  const int64_t step = std::stoll(board_.read(note(0, "found"), 0));
  if (step < 0) return std::nullopt;
  const fs::path directory = directory_ / checkpoint_name(step);
  return FoundCheckpoint{directory, step, has_state_tensors(directory)};
}

CheckpointStore::~CheckpointStore() {
  try {
    settle();
  } catch (const std::exception& e) {
    log::error("{}", e.what());
  }
}

void CheckpointStore::check_disk(weights::ParameterRegistry& registry, int64_t planned_saves) {
  const uint64_t light = checkpoint_bytes(registry, false) + kSmallFilesBytes;
  uint64_t full = checkpoint_bytes(registry, true) + kSmallFilesBytes;
  if (!board_.is_first()) return board_.post(size_note(board_.rank()), std::to_string(full - light));
  other_ranks_bytes_ = 0;
  for (int64_t rank = 1; rank < board_.size(); ++rank)
    other_ranks_bytes_ += std::stoull(board_.read(size_note(rank), rank));
  full += other_ranks_bytes_;
  if (planned_saves <= 0) return;
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
  job_ = std::make_unique<Job>(board_.is_first());
  job_->may_copy = training_goes_on;
  job_->step = step;
  job_->number = ++saves_;
  try {
    prepare(*job_, registry, state);
  } catch (const DistributedError&) {
    throw;
  } catch (const Error& e) {
    job_->part_failure = e.what();
  }
  write_cut_tensors(*job_);
  bool in_background = board_.size() > 1;
  for (const Job::File& file : job_->files) in_background |= !file.copies.empty();
  if (!training_goes_on || !in_background) {
    complete(*job_);
    return settle();
  }
  busy_ = true;
  thread_ = std::thread([this, job = job_.get()] {
    complete(*job);
    busy_ = false;
  });
  // Whoever had to write from live memory is waited for here, not in the next step's collectives with their time-out.
  board_.meet(fmt::format("the checkpoint of step {}", step));
}

void CheckpointStore::plan_weight_files(Job& job, weights::ParameterRegistry& registry) {
  using checkpoint::cut_into_files;
  using checkpoint::kDefaultShardBytes;
  job.is_spread = weights::is_spread(registry);
  if (!job.is_spread) {
    job.weight_files = cut_into_files(weights::weight_tensors(registry), kDefaultShardBytes);
    return;
  }
  const int64_t place = tensor_ranks_ ? tensor_ranks_->place() : 0;
  job.spread = weights::spread_weights(registry, tensor_ranks_ ? tensor_ranks_->size() : 1);
  job.weight_files = cut_into_files(std::move(job.spread.whole), kDefaultShardBytes);
  std::vector<checkpoint::SavedTensor> cut;
  for (const weights::SpreadWeights::Cut& tensor : job.spread.cut)
    if (tensor.writer == place) cut.push_back({tensor.declaration, nullptr});
  job.cut_files = cut_into_files(std::move(cut), kDefaultShardBytes);
  for (std::vector<checkpoint::SavedFile>* files : {&job.weight_files, &job.cut_files})
    std::erase_if(*files, [](const checkpoint::SavedFile& file) { return file.tensors.empty(); });
  const auto count = static_cast<int64_t>(job.weight_files.size() + job.cut_files.size());
  if (!numbering_) {  // the same in every save
    const auto key = [](int64_t rank) { return note(0, fmt::format("files/{}", rank)); };
    board_.post(key(board_.rank()), std::to_string(count));
    numbering_ = {0, 0};
    for (int64_t rank = 0; rank < board_.size(); ++rank) {
      const int64_t theirs = rank == board_.rank() ? count : std::stoll(board_.read(key(rank), rank));
      if (rank < board_.rank()) numbering_->first += theirs;
      numbering_->second += theirs;
    }
  }
  int64_t number = numbering_->first;
  for (std::vector<checkpoint::SavedFile>* files : {&job.weight_files, &job.cut_files})
    for (checkpoint::SavedFile& file : *files)
      file.name = fmt::format("model-{:05}-of-{:05}.safetensors", ++number, numbering_->second);
}

// Tensors that tensor ranks share, one at a time: nobody holds more than its part and one of them. A rank whose disk
// fails goes on receiving, so that the others do not wait for it.
void CheckpointStore::write_cut_tensors(Job& job) {
  if (job.spread.cut.empty()) return;
  weights::TensorExchange exchange;
  exchange.place = tensor_ranks_->place();
  exchange.size = tensor_ranks_->size();
  const auto wrap = [](std::span<std::byte> bytes) {
    return at::from_blob(bytes.data(), {static_cast<int64_t>(bytes.size())},
                         at::TensorOptions().dtype(at::kByte));
  };
  exchange.send = [&](std::span<std::byte> bytes, int64_t to) { tensor_ranks_->send(wrap(bytes), to); };
  exchange.receive = [&](std::span<std::byte> bytes, int64_t from) {
    at::Tensor tensor = wrap(bytes);
    tensor_ranks_->recv(tensor, from);
  };
  std::unique_ptr<formats::SafetensorsWriter> writer;
  auto file = job.cut_files.begin();
  size_t in_file = 0;
  for (const weights::SpreadWeights::Cut& tensor : job.spread.cut) {
    const std::vector<std::byte> bytes = weights::bring_together(tensor, exchange);
    if (tensor.writer != exchange.place || !job.part_failure.empty()) continue;
    try {
      if (!writer)
        writer = std::make_unique<formats::SafetensorsWriter>(
            job.temporary / file->name, checkpoint::declarations(file->tensors), file->metadata);
      writer->write(tensor.declaration.name, bytes);
      if (++in_file < file->tensors.size()) continue;
      writer->commit();
      writer.reset();
      in_file = 0;
      ++file;
    } catch (const Error& e) {
      job.part_failure = e.what();
    }
  }
}

// Everything that reads live parameters: tensors from the end, up to snapshot_bytes, are copied, those before
// them written.
void CheckpointStore::prepare(Job& job, weights::ParameterRegistry& registry, const Json& state) {
  job.model = registry.model();
  job.dtype = weights::saved_dtype(registry.precision());
  job.tokenizer = tokenizer_;
  job.state = state.dump(2) + "\n";
  plan_weight_files(job, registry);
  if (section_.optimizer != "none")
    job.state_files = weights::plan_train_state(registry, static_cast<int>(board_.rank()));
  uint64_t bytes = kSmallFilesBytes;
  const auto take = [&](const checkpoint::SavedFile& file) {
    job.files.push_back({&file, nullptr, {}, false});
    bytes += file.bytes();
  };
  for (const checkpoint::SavedFile& file : job.state_files) take(file);
  // Where every rank has all weights (data parallel): whole files, in turn.
  for (size_t i = 0; i < job.weight_files.size(); ++i)
    if (job.is_spread || static_cast<int64_t>(i) % board_.size() == board_.rank()) take(job.weight_files[i]);
  for (const checkpoint::SavedFile& file : job.cut_files) bytes += file.bytes();
  if (board_.is_first() && section_.optimizer != "none") bytes += other_ranks_bytes_;
  const uint64_t available = free_disk_bytes(directory_);
  if (available < bytes)
    throw FileError("{}: too little disk for the checkpoint of step {}: it needs {}, {} is free",
                    directory_.string(), job.step, format_bytes(static_cast<double>(bytes)),
                    format_bytes(static_cast<double>(available)));
  job.final_path = directory_ / checkpoint_name(job.step);
  job.temporary = job.final_path.string() + mark_;
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

void CheckpointStore::write_part(Job& job) {
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
    job.manifest.files[file.plan->name] = formats::checksum_file(job.temporary / file.plan->name);
  }
  for (const checkpoint::SavedFile& file : job.cut_files)
    job.manifest.files[file.name] = formats::checksum_file(job.temporary / file.name);
  sync_directory(job.temporary / weights::kTrainStateFolder);
  sync_directory(job.temporary);
}

void CheckpointStore::complete(Job& job) {
  try {
    if (job.part_failure.empty()) write_part(job);
  } catch (const std::exception& e) {
    job.part_failure = e.what();
  }
  job.files.clear();  // nothing is open any more
  try {
    if (board_.is_first()) {
      job.failure = conclude(job);
      board_.post(note(job.number, "verdict"), job.failure);
      board_.erase(note(job.number - 1, "verdict"));  // who is in this save has read it
    } else {
      Json files = Json::object();
      for (const auto& [name, file] : job.manifest.files) files[name] = {file.bytes, file.xxh3};
      board_.post(part_note(job.number, board_.rank()),
                  Json({{"failure", job.part_failure}, {"host", host_name()}, {"files", files}}).dump());
      job.failure = board_.read(note(job.number, "verdict"), 0);
    }
  } catch (const std::exception& e) {  // a rank is gone
    job.failure = e.what();
  }
}

std::string CheckpointStore::conclude(Job& job) {
  std::string failures;
  const auto add_failure = [&](int64_t rank, const std::string& host, const std::string& text) {
    if (text.empty()) return;
    if (!failures.empty()) failures += "; ";
    failures += board_.size() == 1 ? text : fmt::format("rank {} on {}: {}", rank, host, text);
  };
  add_failure(0, host_name(), job.part_failure);
  for (int64_t rank = 1; rank < board_.size(); ++rank) {
    const Json part = Json::parse(board_.read(part_note(job.number, rank), rank));
    board_.erase(part_note(job.number, rank));
    add_failure(rank, part.at("host"), part.at("failure"));
    for (const auto& [name, file] : part.at("files").items())
      job.manifest.files[name] = {file.at(0).get<uint64_t>(), file.at(1).get<std::string>()};
  }
  if (!failures.empty()) return failures;
  try {
    put_in_place(job);
  } catch (const std::exception& e) {
    add_failure(0, host_name(), e.what());
  }
  return failures;
}

void CheckpointStore::put_in_place(Job& job) {
  const auto record = [&](const std::string& name) {
    job.manifest.files[name] = formats::checksum_file(job.temporary / name);
  };
  if (!job.tokenizer.empty() && !fs::exists(job.tokenizer)) {
    log::warning("{} is gone: the checkpoint of step {} has no tokenizer", job.tokenizer.string(), job.step);
    job.tokenizer.clear();
  }
  if (job.is_spread) {  // what the others wrote, as their files say
    job.weight_files.clear();
    for (const auto& [name, file] : job.manifest.files) {
      if (name.starts_with(weights::kTrainStateFolder)) continue;
      checkpoint::SavedFile& written = job.weight_files.emplace_back();
      written.name = name;
      const formats::SafetensorsFile header(job.temporary / name);
      for (const formats::TensorEntry& entry : header.tensors())
        written.tensors.push_back({{entry.name, entry.dtype, entry.shape}, nullptr});
    }
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
  train::put_in_place(job.temporary, job.final_path);
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
  if (failure_.empty()) return;
  // All ranks know; one says it.
  log::write(
      board_.is_first() ? log::Level::error : log::Level::info,
      fmt::format("the checkpoint of step {} could not be saved: {}; earlier checkpoints are as they were",
                  job->step, failure_));
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

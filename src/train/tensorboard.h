// TensorBoard event files: scalars, written without protobuf or Python.
//
// A file is a list of TFRecords: uint64 length, uint32 masked CRC-32C of those 8 bytes, the bytes of one
// Event message, uint32 masked CRC-32C of them; all little endian. Masked: ((crc >> 15) | (crc << 17)) +
// 0xa282ead8. Event fields (tensorflow/core/util/event.proto): wall_time = 1 double, step = 2 int64,
// file_version = 3 string, summary = 5 {value = 1 {tag = 1 string, simple_value = 2 float}}, session_log = 7
// {status = 1, START being 1}.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "train/metrics.h"

namespace fathom::train {

using Scalars = std::vector<std::pair<std::string, double>>;  // tag, value

// The bytes of one record / message; exposed for the tests.
std::string tf_record(std::string_view payload);
std::string file_version_event(double wall_time);
std::string session_start_event(double wall_time, int64_t step);
std::string scalars_event(double wall_time, int64_t step, const Scalars& scalars);

// One event file of a run: `<directory>/events.out.tfevents.<seconds>.<host>.<pid>`. Each call is one
// write(2), so a kill leaves at worst a torn last record, which TensorBoard passes over. Not thread-safe.
// Throws FileError.
class EventFile {
 public:
  // Makes the directory and a new file whose time is later than that of every event file there, since
  // TensorBoard reads them in the order of names. With resume_step > 0 the file starts with a session start
  // at resume_step + 1, at which TensorBoard drops what an earlier file says of later steps.
  EventFile(const std::filesystem::path& directory, int64_t resume_step);
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;
  ~EventFile();

  // All with one step and the time of the call.
  void write(int64_t step, const Scalars& scalars);
  // loss, mtp_loss, balance_loss, grad_norm, learning_rate, tokens_per_second, max_violation, skipped_steps,
  // eval/loss, eval/perplexity; what was not measured is left out, a loss that is not a number is not.
  void write(const StepMetrics& metrics);
  // expert_load/layer_<layer>/max and /min: of the experts' loads, 1 being balance.
  void write(const ExpertLoad& load);

  const std::filesystem::path& path() const { return path_; }

 private:
  void append(const std::string& bytes);
  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace fathom::train

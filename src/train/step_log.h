// A file of JSON objects, one a line and one a step, that survives kills: the base of metrics.jsonl and
// expert_load.jsonl.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "base/json.h"

namespace fathom::train {

// Every line is an object with an integer "step". A record is one write(2) at the end of the file, so a kill
// leaves at worst one torn line, the last; opening removes it. Not thread-safe.
class StepLog {
 public:
  // Opens or makes the file for a run that has done `resume_step` steps: records of later steps, the torn
  // end, and all but the last record of a step are removed, the file being rewritten whole (atomically) if
  // there are any. Damaged lines elsewhere (a power cut leaves such) are removed with a warning. Throws
  // FileError.
  StepLog(const std::filesystem::path& path, int64_t resume_step);
  StepLog(const StepLog&) = delete;
  StepLog& operator=(const StepLog&) = delete;
  ~StepLog();

  // `line`: one JSON object without a line end. Throws FileError (disk full, ...), the file then ending as
  // before.
  void append(std::string_view line);

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

// Calls `use` with each whole record in the order of the file; lines that are no object with a step are
// passed over, and of several records of one step (or of steps that go back) all are given. A missing file
// has no records. Throws FileError.
void read_step_log(const std::filesystem::path& path,
                   const std::function<void(int64_t step, const SortedJson& record)>& use);

// A JSON number that reads back to the same double; NaN and infinities, which JSON lacks, are null.
std::string json_number(double value);
// The other way: null, a missing key or another type is NaN.
double number_or_nan(const SortedJson& record, const char* key);

}  // namespace fathom::train

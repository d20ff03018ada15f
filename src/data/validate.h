// `fathom data validate`: reads a whole dataset, in parallel at the speed of memory, and says what is in it or
// names the first fault.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace fathom::data {

struct ValidateOptions {
  std::filesystem::path prefix;
  int64_t vocab_size =
      0;  // 0: the one of PREFIX.meta.json, or unknown: then every id >= 0 that int32 holds passes
};

struct ValidateReport {
  int64_t documents = 0, sequences = 0, tokens = 0;
  int64_t empty_documents = 0, empty_sequences = 0;  // allowed, and worth knowing
  int64_t vocab_size = 0;                            // checked against; 0: none known
  int32_t largest_id = -1;                           // -1: no token
  int32_t eod_id = -1;                               // that ends each document; -1: not checked
  uint64_t bytes = 0;                                // read, of both files
  double seconds = 0;
};

// Checks every field of the index (as opening does), every token, with append_eod in PREFIX.meta.json that each
// document that has tokens ends with its eod_id, and that its counts are the dataset's. Uses the threads of
// base/parallel.h. Throws DataError naming the first fault (file, document, sequence, token, byte), ConfigError,
// FileError, Error after a stop signal.
ValidateReport validate_dataset(const ValidateOptions& options);

}  // namespace fathom::data

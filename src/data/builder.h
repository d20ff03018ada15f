// `fathom data build`: text files -> Megatron .bin/.idx, with the tokenizer's ids.
// Memory is bounded (a few MiB a thread and the largest document); the result does not depend on the number
// of threads; output files appear whole at the end or not at all. Beside them PREFIX.meta.json tells what
// they hold.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace fathom::data {

// What becomes one sequence of the indexed dataset. Training shuffles sequences (Megatron's order), so
// `document` keeps articles whole; `line` stores each line that is not blank, without its newline, as
// Megatron's sentence splitting does.
enum class SequenceUnit {
  automatic,
  document,
  line
};  // automatic: line for .tokens, document for the others

struct BuildOptions {
  std::filesystem::path tokenizer;
  std::vector<std::filesystem::path> inputs;
  std::filesystem::path
      output_prefix;        // PREFIX.bin, PREFIX.idx, PREFIX.meta.json; with `split` PREFIX_train.bin, ...
  bool append_eod = false;  // the tokenizer's eos id at the end of each document
  std::string json_key = "text";
  int64_t seq_length = 0;  // > 0: longer sequences are cut into pieces of this many tokens
  std::string split;       // "98,1,1" by documents, in order; empty: one output
  bool skip_bad = false;   // leave out documents with errors and count them; else stop at the first
  tokenizer::SpecialTokens special_tokens = tokenizer::SpecialTokens::text;
  SequenceUnit sequences = SequenceUnit::automatic;
};

struct BuiltDataset {
  std::filesystem::path prefix;
  int64_t documents = 0, sequences = 0, tokens = 0;
};

struct BuildReport {
  std::vector<BuiltDataset> outputs;
  int64_t skipped_documents = 0;
  uint64_t input_bytes = 0;
  double seconds = 0;
};

// Uses the threads of base/parallel.h. Throws UsageError, ConfigError (tokenizer, no eos id), DataError
// (file, line, byte; or nothing to write), FileError. A stop signal ends it between batches with nothing
// written.
BuildReport build_dataset(const BuildOptions& options);

// What PREFIX.meta.json says; nullopt where there is none (a dataset made elsewhere).
struct DatasetMetadata {
  int32_t eod_id = -1;      // the tokenizer's, -1: none
  bool append_eod = false;  // whether documents end with it
  int64_t vocab_size = 0;
  std::string tokenizer;              // path as given to the build
  std::string tokenizer_fingerprint;  // xxHash64 of tokenizer.json
};
std::optional<DatasetMetadata> read_dataset_metadata(
    const std::filesystem::path& prefix);  // throws ConfigError

}  // namespace fathom::data

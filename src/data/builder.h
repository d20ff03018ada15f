// `fathom data build`: text files -> Megatron .bin/.idx, with the tokenizer's ids.
//
// Every worker reads, encodes and writes in turn: reading and writing are each done by one worker at a time, in
// order, while the others encode. So the result does not depend on the number of workers, and no thread is there
// but them. Anonymous memory is at most kBuildMemoryBytes and kBuildMemoryBytesPerWorker for each worker, whatever
// the input: long documents pass through in parts (corpus.h), the index lies on disk while it grows.
//
// While it runs the dataset grows in PREFIX.build/, with a journal of how far it got; the same command run again
// after a break goes on from there and gives the same bytes. If inputs (names, sizes, times), tokenizer or options
// are others, it starts afresh and says so. PREFIX.bin, .idx and .meta.json appear whole at the end.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace fathom::data {

inline constexpr uint64_t kBuildMemoryBytes = uint64_t{128} << 20;
inline constexpr uint64_t kBuildMemoryBytesPerWorker = uint64_t{32} << 20;

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
  std::vector<std::filesystem::path> inputs;  // files, see corpus_inputs.h
  std::filesystem::path
      output_prefix;        // PREFIX.bin, PREFIX.idx, PREFIX.meta.json; with `split` PREFIX_train.bin, ...
  bool append_eod = false;  // the tokenizer's eos id at the end of each document
  std::string json_key = "text";
  // > 0: all documents end to end, cut into pieces of seq_length + 1 tokens (inputs and labels of a sample), each
  // a document; the rest at the end is dropped. As MindFormers' wikitext_to_bin.py with --seq-length.
  int64_t seq_length = 0;
  std::string split;      // "98,1,1" by documents of the dataset, in order; empty: one output
  bool skip_bad = false;  // leave out documents with errors and count them; else stop at the first
  tokenizer::SpecialTokens special_tokens = tokenizer::SpecialTokens::text;
  SequenceUnit sequences = SequenceUnit::automatic;
  double save_every_seconds = 5;  // of the journal
};

struct BuiltDataset {
  std::filesystem::path prefix;
  int64_t documents = 0, sequences = 0, tokens = 0;
};

struct BuildReport {
  std::vector<BuiltDataset> outputs;
  int64_t skipped_documents = 0;
  std::vector<std::string> errors;          // of the first skipped ones
  int64_t dropped_tokens = 0;               // behind the last whole piece of seq_length + 1
  uint64_t text_bytes = 0, file_bytes = 0;  // decompressed, and on disk
  uint64_t resumed_text_bytes = 0;          // of them done by an earlier, interrupted run
  double seconds = 0;                       // of this run
};

// Uses the threads of base/parallel.h. Throws UsageError, ConfigError (tokenizer, no eos id), DataError
// (file, line, byte; or nothing to write), FileError. A stop signal ends it at once; what was done is kept.
BuildReport build_dataset(const BuildOptions& options);

// What PREFIX.meta.json says; nullopt where there is none (a dataset made elsewhere).
struct DatasetMetadata {
  int32_t eod_id = -1;      // the tokenizer's, -1: none
  bool append_eod = false;  // whether documents end with it
  int64_t vocab_size = 0;
  std::string tokenizer;  // path as given to the build
  // xxHash64 of tokenizer.json, or of tiktoken.model and the tokenizer_config.json beside it
  std::string tokenizer_fingerprint;
};
std::optional<DatasetMetadata> read_dataset_metadata(
    const std::filesystem::path& prefix);  // throws ConfigError

}  // namespace fathom::data

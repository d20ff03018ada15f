// `fathom data merge`: datasets joined into one, whose .bin and .idx are those of one build of the same
// documents. The .bin files are copied by the kernel at disk speed, the indices are shifted in blocks: memory is
// a few MiB whatever the size. The output appears whole under its name or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace fathom::data {

struct MergeOptions {
  std::vector<std::filesystem::path> inputs = {};  // prefixes, in the order of the output
  std::filesystem::path output_prefix = {};        // with `split`: P_train, P_valid, P_test
  // Join also datasets without a .meta.json, or of different tokenizers; the output has no .meta.json then.
  bool any_tokenizer = false;
  // Documents in a random order (a function of the seed and their number). Documents are then read and written
  // one by one; memory is 8 bytes a document.
  std::optional<uint64_t> shuffle_seed = {};
  std::string split = {};  // "98,1,1" by documents, after the shuffle; empty: one output
};

struct MergedDataset {
  std::filesystem::path prefix;
  int64_t documents = 0, sequences = 0, tokens = 0;
  uint64_t bytes = 0;  // of .bin and .idx
};

struct MergeReport {
  std::vector<MergedDataset> outputs;
  double seconds = 0;
};

// Throws UsageError (no input, the output is an input), DataError (a damaged input; types, modes or tokenizers
// that differ, naming both), ConfigError (a .meta.json or split that cannot be read), FileError (too little
// disk, with the numbers), Error after a stop signal (nothing written).
MergeReport merge_datasets(const MergeOptions& options);

}  // namespace fathom::data

// What is in a checkpoint directory, a safetensors file or a config.json, and how two of them differ.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "config/tensor_table.h"

namespace fathom::checkpoint {

struct InspectedTensor {
  std::string name, dtype;  // dtype as safetensors names it: BF16, F32, F8_E4M3, ...
  std::vector<int64_t> shape;
  std::string file;     // empty: implied by a config.json, not stored
  uint64_t offset = 0;  // of the first byte in the file
  uint64_t bytes = 0;
};

struct Inspection {
  std::filesystem::path path;  // what was looked at (of a run's directory its newest checkpoint)
  std::string kind;            // checkpoint | safetensors | config
  std::optional<config::ModelConfig> model;
  std::optional<config::ParameterCounts> counts;
  int64_t stored_parameters = 0;         // of all matrices and vectors: scales are none
  std::vector<InspectedTensor> tensors;  // by file and offset; a config's in the table's order
  std::map<std::string, uint64_t> bytes_by_dtype;
  std::vector<std::string> missing;     // the config implies them, no file holds them
  std::vector<std::string> unexpected;  // stored, not implied
  bool has_manifest = false;
  size_t manifest_files = 0;
  std::string manifest_fault;  // empty: every size and checksum holds

  // The trunk's parameters where there is a config (671,026,419,200 for V3), else all stored ones.
  int64_t total_parameters() const { return counts ? counts->trunk : stored_parameters; }
};

// `path`: a checkpoint directory (its manifest is verified if it has one, checksums included), a run's output
// directory, a .safetensors file, an index, or a config.json. Throws FileError, CheckpointError, ConfigError.
Inspection inspect(const std::filesystem::path& path);

struct TensorDifference {
  std::string name;
  std::string what;       // "dtype BF16, F32", "shape [2], [3]", or "values"
  uint64_t elements = 0;  // that differ, where dtype and shape agree
  double max_absolute =
      0;  // over those, of F64, F32, F16 and BF16 tensors; a NaN that only one side has counts as inf
};

struct CheckpointDifference {
  std::vector<std::string> only_first, only_second;
  std::vector<TensorDifference> differing;
  uint64_t compared = 0;  // tensors with bytes compared
  bool identical() const { return only_first.empty() && only_second.empty() && differing.empty(); }
};

// Compares what two paths store, bit by bit (configs: names, dtypes and shapes).
CheckpointDifference compare(const Inspection& first, const Inspection& second);

}  // namespace fathom::checkpoint

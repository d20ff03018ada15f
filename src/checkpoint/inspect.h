// What is in a checkpoint directory, a safetensors file or a config.json. How two of them differ: compare.h.
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
  std::string xxh3;  // of its bytes, after add_checksums
  int64_t parameters =
      0;  // of the model, whose values it holds: none in scales, eight in a word of 4-bit codes
  int64_t numel() const;
  bool is_scale() const;  // of quantized values: no parameters of the model
};

// An MTP layer's tensor that repeats one of the trunk.
struct MtpCopy {
  std::string name, source;
  bool is_stored = true;         // false: the trunk's is used
  std::optional<bool> is_equal;  // bit for bit, after add_checksums
};

// Layers in sequence that are alike, or what stands outside the layers. Figures are of one layer.
struct LayerRow {
  int64_t first = -1, last = -1;  // -1: outside the layers
  std::string kind;               // embedding | dense | MoE | MTP | norm | head | other
  int64_t parameters = 0;         // without the MTP layers' copies of embedding and head
  std::optional<int64_t> active;  // that one token uses; known where there is a config
  int64_t copies = 0;             // parameters in such copies
  int64_t scales = 0;
  std::map<std::string, uint64_t> bytes_by_dtype;  // everything stored
  int64_t count() const { return last - first + 1; }
  uint64_t bytes() const;
};

struct Inspection {
  std::filesystem::path path;  // what was looked at (of a run's directory its newest checkpoint)
  std::string kind;            // checkpoint | safetensors | config
  std::optional<config::ModelConfig> model;
  std::optional<config::ParameterCounts> counts;
  int64_t stored_parameters = 0;  // of all tensors
  int64_t scale_tensors = 0, scale_elements = 0;
  uint64_t scale_bytes = 0;
  size_t files = 0;                      // that hold tensors
  std::vector<InspectedTensor> tensors;  // by file and offset; a config's in the table's order
  std::map<std::string, uint64_t> bytes_by_dtype;
  std::vector<LayerRow> layers;
  std::vector<MtpCopy> mtp_copies;
  std::vector<std::string> missing;     // the config implies them, no file holds them; no MtpCopy
  std::vector<std::string> unexpected;  // stored, not implied; loading refuses them
  std::vector<std::string> unused;      // MTP layers that the config does not have, rotary_emb.inv_freq
  int64_t unlisted_tensors = 0;         // in the files, not in the index
  std::vector<std::string> unlisted_files;
  bool has_manifest = false;
  size_t manifest_files = 0;
  std::string manifest_fault;  // empty: every size holds, after add_checksums every checksum
  std::string checksum;        // of all tensors, after add_checksums

  // The trunk's parameters where there is a config (671,026,419,200 for V3), else all stored ones.
  int64_t total_parameters() const { return counts ? counts->trunk : stored_parameters; }
  uint64_t total_bytes() const;
};

// `path`: as resolve_checkpoint takes it (run_directory.h), a .safetensors file, an index, or a config.json. Reads
// headers only. Throws FileError, CheckpointError, ConfigError.
Inspection inspect(const std::filesystem::path& path);

// Reads everything that is stored: XXH3 (64 bits, seed 0, 16 hex digits) of each tensor's bytes, and of the lines
// "<name> <dtype> <shape> <its XXH3>\n" in order of names as `checksum`, which thus depends on neither file cuts nor
// the order of tensors. Verifies the manifest's checksums too. Throws FileError, Error when stopped.
void add_checksums(Inspection& inspection);

}  // namespace fathom::checkpoint

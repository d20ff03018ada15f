// A checkpoint as conversions read it, whatever its layout: the model, and its tensors as views under HF names.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "base/json.h"
#include "checkpoint/stored_values.h"
#include "checkpoint/tensor_view.h"
#include "config/model_config.h"
#include "config/tensor_table.h"

namespace fathom::checkpoint {

struct SourceTensors {
  std::filesystem::path path;
  config::ModelConfig model;
  // What a result depends on: the config's sum; name, size and time of each file.
  Json identity;
  // By HF name, the parts of a quantised matrix (`<name>_scale_inv`, "X.weight_scale") by theirs; nullopt: not there.
  std::function<std::optional<TensorView>(const std::string& name)> find;
  std::string where() const { return path.string(); }  // for messages
};

struct SourceOptions {
  std::filesystem::path config;  // a config.json to read in place of the directory's; empty: that one
  // Of layouts that do not say (layout_rules.h); unset: as the files say that Fathom wrote, else as that layout's own
  // programs write them.
  std::optional<bool> swaps_mtp_halves, has_interleaved_fc1;
};

// A directory in any layout of layout_rules.h. Every stored tensor is known to be one of the model's, or of no use
// (known_tensors.h). Throws FileError, CheckpointError: no checkpoint, an unknown tensor, a quantisation that is not read
// here; UsageError: no config.json and none given.
SourceTensors open_source(const std::filesystem::path& path, const SourceOptions& options = {});

// The tensor `name` of the source, which must have the shape that `table` (of the source's model) says. For a copy of
// embedding or head that an MTP layer lacks it is the trunk's (WT-7); `is_tied` tells. Throws CheckpointError naming it.
TensorView source_tensor(const SourceTensors& source, const config::TensorTable& table,
                         const std::string& name, bool& is_tied);

// For those that open a layout.
// One of the dtypes that weights have; of fp8, with its scales. Throws CheckpointError.
void check_weight_dtype(const formats::ShardedReader& reader, const std::string& name,
                        const StoredTensor& tensor);
Json source_identity(const std::filesystem::path& config, const formats::ShardedReader& reader);

}  // namespace fathom::checkpoint

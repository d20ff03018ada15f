// Whether the tensors of a checkpoint are those of its model, and what is said where they are not.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "config/tensor_table.h"
#include "formats/sharded_safetensors.h"

namespace fathom::checkpoint {

enum class Known {
  model,        // one of the table's, or a part of one (codes, scales)
  of_no_use,    // rotary_emb.inv_freq
  unasked_mtp,  // of a layer beyond the model's: MTP, which `model` does not have
  no,
};
Known classify_tensor(const std::string& name, const config::TensorTable& table,
                      const config::ModelConfig& model);

// Every stored tensor must be known. Tensors of MTP layers that `model` does not have are counted and returned (WT-6);
// `where` names the source in messages. Throws CheckpointError naming the first other tensor, or what of the
// quantization_config is not read here.
int64_t refuse_unknown_tensors(const formats::ShardedReader& reader, const config::TensorTable& table,
                               const config::ModelConfig& model, const std::string& where);

// Warns of what the index leaves out: tensors of its files, and *.safetensors files that it does not name.
void mention_unlisted(const formats::ShardedReader& reader, const std::string& where);

// The trunk's tensor that DeepSeek copies under this name into an MTP layer; nullptr: `spec` is no such copy.
const char* copied_from(const config::TensorSpec& spec);

// To be thrown. `mtp_remedy`: what helps where it is a tensor of an MTP layer.
CheckpointError missing_tensor(const std::string& where, const std::string& name,
                               const config::TensorSpec& spec, const config::ModelConfig& model,
                               const char* mtp_remedy);
// Throws CheckpointError naming both shapes.
void check_shape(const std::string& file, const std::string& name, const std::vector<int64_t>& stored,
                 const std::vector<int64_t>& implied);

}  // namespace fathom::checkpoint

// Whether the tensors of a checkpoint are those of its model.
#pragma once

#include <cstdint>
#include <string>

#include "config/tensor_table.h"
#include "formats/sharded_safetensors.h"

namespace fathom::checkpoint {

// Every stored tensor must be one of the table's, a part of a quantised one, or known to be of no use (rotary_emb.inv_freq).
// Tensors of MTP layers that `model` does not have are counted and returned (WT-6); `where` names the source in
// messages. Throws CheckpointError naming the first other tensor, or what of the quantization_config is not read here.
int64_t refuse_unknown_tensors(const formats::ShardedReader& reader, const config::TensorTable& table,
                               const config::ModelConfig& model, const std::string& where);

}  // namespace fathom::checkpoint

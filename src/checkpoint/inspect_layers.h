// The table of layers of an inspection.
#pragma once

#include <vector>

#include "checkpoint/inspect.h"

namespace fathom::checkpoint {

// Parameters as the config implies them, bytes as they are in `tensors`; equal layers in sequence are one row.
std::vector<LayerRow> layers_of_config(const config::ModelConfig& model, const config::TensorTable& table,
                                       const std::vector<InspectedTensor>& tensors);
// Without a config: kinds by names, parameters as stored (copies of embedding and head in MTP layers count apart), no
// active ones.
std::vector<LayerRow> layers_of_names(const std::vector<InspectedTensor>& tensors);

}  // namespace fathom::checkpoint

// A model's tensors as llama.cpp's deepseek2 names and lays them out: views on HF tensors.
#pragma once

#include <vector>

#include "checkpoint/model_cut.h"
#include "checkpoint/source_tensors.h"
#include "checkpoint/tensor_view.h"

namespace fathom::checkpoint {

struct GgufView {
  TensorView view;        // named as in the GGUF; shape outermost first
  bool is_exact = false;  // float32 whatever is asked for: vectors, norms, router
};

// Of the cut's trunk, layer after layer. Throws CheckpointError: a tensor is missing or has another shape.
std::vector<GgufView> gguf_views(const SourceTensors& source, const ModelCut& cut);

}  // namespace fathom::checkpoint

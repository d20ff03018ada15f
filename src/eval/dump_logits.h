// A model's logits as a file, for comparison with other programs (tests/golden/load_in_transformers.py).
#pragma once

#include <filesystem>

#include "model/deepseek.h"
#include "model/micro_batch.h"

namespace fathom::eval {

// Writes a safetensors file: `tokens` int64 [1, S], the window's inputs, and `logits` float32 [1, S, V], row
// i from tokens 0 .. i. The arithmetic is that of perplexity. Memory: a few rows of V at a time. Throws
// FileError.
void dump_logits(model::DeepseekModel& model, const model::Window& window, const std::filesystem::path& path);

}  // namespace fathom::eval
